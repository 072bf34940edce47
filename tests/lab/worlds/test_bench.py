"""All models meet the same rows: candidates know the log and nothing of each other, and crosses are indicators."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lab.worlds.bench import Bench, open_bench
from lab.worlds.cell import figures_of
from lab.worlds.design import Design, Field, crosses_of, fields_of, live_columns
from lab.worlds.recipe import WorldError
from lab.worlds.rivals import clicks_of, conversions_of, fit_click_rates, fit_regression, fit_trees
from lab.worlds.world import WORLDS, Given

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


def test_design_has_an_indicator_of_each_trained_pair(segments: Bench) -> None:
    trained = clicks_of(segments).trained
    fields = fields_of(segments.data, segments.features, trained)
    pairs = [(one.name, other.name) for one, other in crosses_of(fields)]
    asking = ("user_id", "segment", "device", "hour", "weekday")
    assert sorted(pairs) == sorted((one, other) for one in asking for other in ("advertiser", "topic"))

    chosen = [field for field in fields if field.name in ("segment", "topic")]
    design = Design(segments.features, chosen, crosses_of(chosen), trained)
    x = design(segments.features, trained)
    assert design.width == 4 + 5 + 20
    assert (x.sum(1) == 3).all()
    events = segments.data.events[trained].join(segments.data.users, on="user_id", maintain_order="left")
    events = events.join(segments.data.items, on="item_id", maintain_order="left")
    counts = events.group_by("segment", "topic").len()["len"].sort()
    assert np.sort(np.asarray(x.sum(0)).ravel()[-20:]).tolist() == counts.to_list()


def test_unseen_pair_has_no_indicator(segments: Bench) -> None:
    one = Field("one", "context", np.array([[0], [1], [2]]))
    two = Field("two", "context", np.array([[0, -1], [1, 0], [0, -1]]))
    design = Design(segments.features, [one], [(one, two)], np.array([0, 1]))
    assert design.width == 2 + 3
    assert design(segments.features, np.arange(3)).toarray().tolist() == [[1, 0, 1, 0, 0], [0, 1, 0, 1, 1], [0] * 5]


def test_trees_read_live_counts_and_no_ids(segments: Bench) -> None:
    rows = np.arange(100)
    columns, categories = live_columns(segments.features, rows)
    vocabularies = [len(set(columns[:, place])) for place in categories]
    assert len(categories) == 6
    assert max(vocabularies) <= 27
    item = segments.features.item.live_dense.numpy()[rows]
    assert any(np.array_equal(columns[:, at], item[:, 0]) for at in range(columns.shape[1]))


@pytest.mark.parametrize("fit", [fit_click_rates, fit_regression, fit_trees])
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


def test_words_of_texts_are_crossed(tmp_path: Path) -> None:
    bench = open_world("texts", tmp_path)
    fields = fields_of(bench.data, bench.features, clicks_of(bench).trained)
    names = {field.name for field in fields}
    assert "words" in names
    assert "topic" not in names
    words = next(field for field in fields if field.name == "words")
    assert ("segment", "words") in [(one.name, other.name) for one, other in crosses_of(fields)]
    assert words.codes.max() > 20
    assert (words.codes[:-1] >= 0).any(1).all()


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
