"""All models meet the same rows: candidates know the log and nothing of each other."""

from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lab.worlds.bench import Bench, open_bench
from lab.worlds.cell import figures_of
from lab.worlds.columns import live_columns, word_codes
from lab.worlds.recipe import WorldError
from lab.worlds.rivals import clicks_of, conversions_of, fit_click_rates, fit_regression, fit_trees
from lab.worlds.world import WORLDS, Given
from msd.metrics import roc_auc

AUCTIONS = 40


def open_world(name: str, folder: Path) -> Bench:
    return open_bench(WORLDS[name].ready(Given(rows=4_000), folder), WORLDS[name].within, AUCTIONS)


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return open_world("segments", tmp_path_factory.mktemp("segments"))


def test_candidates_know_the_log_and_nothing_of_each_other(segments: Bench) -> None:
    log, features = segments.data.events, segments.features
    shown = dict(log.group_by("item_id").len().iter_rows())
    state = features.schema.state("item")
    assert state is not None
    counts = features.timeline.item.live.impressions[segments.candidates]
    names = segments.whole.events["item_id"][segments.candidates].to_list()
    most = np.array([shown[name] for name in names], np.float64)
    assert len(counts) == AUCTIONS * 20
    # Old impressions fade by at most 28 of 180 days' half-life.
    assert (counts <= most).all()
    assert (counts > 0.85 * most).all()
    held = (features.history[segments.candidates] >= 0).sum(1).numpy()
    # A history has one entry per item.
    met = dict(log.group_by("user_id").agg(pl.col("item_id").n_unique()).iter_rows())
    users = segments.whole.events["user_id"][segments.candidates].to_list()
    assert held.tolist() == [min(50, met.get(user, 0)) for user in users]


def test_parts_of_the_log_are_those_of_the_dataset(segments: Bench) -> None:
    features = segments.features
    assert features.parts[: segments.data.events.height].tolist() == segments.parts.tolist()
    assert len(features.labels) == segments.data.events.height + AUCTIONS * 20
    assert segments.truth is not None
    assert len(segments.truth) == len(segments.test)


def test_trees_read_live_counts_and_no_ids(segments: Bench) -> None:
    rows = np.arange(100)
    columns, categories = live_columns(segments.features, rows)
    vocabularies = [len(set(columns[:, place])) for place in categories]
    assert len(categories) == 6
    assert max(vocabularies) <= 27
    item = segments.features.item.live_dense.numpy()[rows]
    assert any(np.array_equal(columns[:, at], item[:, 0]) for at in range(columns.shape[1]))


@pytest.mark.parametrize("fit", [fit_click_rates, partial(fit_regression, is_crossed=True), fit_trees])
def test_rival_ranks_the_test_rows(segments: Bench, fit: object) -> None:
    predict = fit(segments, clicks_of(segments))  # type: ignore[operator]
    ones = np.ones(len(segments.candidates))
    found = {
        "test": predict(segments.features, segments.test),
        "candidates": predict(segments.features, segments.candidates),
        "conversions": ones,
        "seconds": np.zeros(()),
    }
    figures, auctions = figures_of(segments, found), segments.auctions
    assert auctions is not None
    assert figures["auc"] is not None
    assert figures["auc"] > 0.5
    assert figures["predicted_over_law"] == pytest.approx(1.0, abs=0.2)
    assert auctions.revenue(ones) < figures["first_ecpm"] < auctions.revenue(auctions.chances.ravel())  # type: ignore[operator]


def test_words_of_texts_are_a_field(tmp_path: Path) -> None:
    bench = open_world("texts", tmp_path)
    codes = word_codes(bench.data, bench.features)
    assert len(codes) == len(bench.features.labels)
    assert (codes >= 0).any(1).all()
    texts = bench.whole.events.join(bench.data.items, on="item_id", maintain_order="left")["text"]
    same = texts == texts[0]
    assert (codes[same.to_numpy()] == codes[0]).all()
    assert len(np.unique(codes)) > 20
    crossed = fit_regression(bench, clicks_of(bench), is_crossed=True)
    labels, _ = bench.features.outcomes(bench.test)
    assert roc_auc(labels, crossed(bench.features, bench.test)) > 0.52


def test_conversions_are_learned_from_clicks(tmp_path: Path) -> None:
    bench = open_world("late", tmp_path)
    of_clicks, clicks = conversions_of(bench), clicks_of(bench)
    assert of_clicks is None or (clicks.labels[of_clicks.trained] == 1).all()
    events = bench.data.events.with_columns(part=pl.Series(bench.parts))
    known = events.filter((pl.col("part") == 2) & (pl.col("conversion") == 1)).height
    assert (of_clicks is None) == (known < 20)
    assert bench.auctions is not None
    assert (bench.auctions.paid < bench.auctions.chances).all()


def test_data_that_is_not_given_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match="'collm' needs your own copy of its data: give it with --collm"):
        WORLDS["collm"].ready(Given(), tmp_path)
