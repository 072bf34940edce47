"""A bundle's rows hold what the features say, requests of test rows cover gaps, and live scores equal offline ones."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from lab.chaos.bare_bundle import bare_bundle
from lab.chaos.replayed_period import (
    LiveScores,
    Period,
    TrainedFolders,
    offline_scores,
    period_of,
    replay_moments,
)
from model_export.parity import plain_request, serving_requests
from msd.contract.bundle import ROWS, WORDS, open_bundle
from msd.contract.errors import BundleError
from msd.contract.request import parse_request
from msd.contract.row_file import RowFile
from msd.contract.rows import ROW_SIDES, RowCodec, Rows, RowSide, has_semantic
from msd.contract.schema import OUTCOME_FEATURES
from msd.dataset.split import Part
from msd.ranker.timeline import walk_events
from msd.student.record import HEADS
from native.bundle_rows import BundleRows
from native.columns import Counts, encode_counts
from operations.catalogue.parquet import read_part
from service.catalogue.item_rows import ItemRows, WrongValue
from tests.model_export.conftest import Exported, Run
from tests.operations.catalogue.made import make
from tests.reference.live import Event, State, advance, fold
from tests.service.live import live_service


def _read(exported: Exported, side: RowSide) -> tuple[list[str], Rows]:
    bundle = exported.bundle
    features = exported.features.user if side == "user" else exported.features.item
    file = RowFile(bundle.path(ROWS[side]), RowCodec(bundle.schema, side, bundle.bundle_id), bundle.bundle_id)
    assert file.count == len(features.entities.ids)
    return features.entities.ids, file.get(features.entities.ids)


@pytest.mark.parametrize("side", ROW_SIDES)
def test_rows_hold_encoded_columns_and_adapted_vectors(exported: Exported, side: RowSide) -> None:
    features = exported.features.user if side == "user" else exported.features.item
    _, rows = _read(exported, side)
    assert rows.found.all()
    assert rows.damaged == 0
    assert np.array_equal(rows.records["categorical"], features.entities.categorical[:-1])
    assert np.array_equal(rows.records["numeric"], features.entities.numeric[:-1])
    present = features.present[:-1]
    vectors = exported.trained.adaptors.adapt(exported.features).adapted[side][:-1].numpy()
    assert np.array_equal(has_semantic(rows.records), present.numpy())
    if side == "item" and (words := exported.inputs.words):
        half = len(words.bias)
        due = words.block(features.vectors[:-1].numpy()[:, HEADS["words"]])
        np.testing.assert_allclose(vectors[present, -half:], due[present], atol=1e-5)
        vectors[present, -half:] = due[present]
    assert np.array_equal(rows.records["semantic"], vectors.astype(np.float16))
    assert not rows.records["semantic"][~present.numpy()].any()
    assert np.abs(rows.records["semantic"]).max() < 64


@pytest.mark.parametrize("side", ROW_SIDES)
def test_counts_and_histories_of_window_and_train_rows(exported: Exported, side: RowSide) -> None:
    dataset, features, schema = exported.inputs.dataset, exported.features, exported.bundle.schema
    ids, rows = _read(exported, side)
    counted = dataset.events.filter(features.parts <= Part.TRAIN)
    ends_at = float(counted["at"].max())  # type: ignore[arg-type]
    state = schema.state(side)
    assert state is not None
    for place, one in enumerate(ids):
        mine = counted.filter(counted[f"{side}_id"] == one).select("at", "label", "item_id")
        expected = State()
        for at, label, item in mine.iter_rows():
            event = Event(at, True, bool(label), item)
            expected = fold(expected, event, state.half_life_s, schema.history.length)
        # Later rows of a user are not counted, so their counts are complete up to their last counted row only.
        if side == "item":
            expected = advance(expected, ends_at, state.half_life_s)
        record = rows.records[place]
        assert record["impressions"] == pytest.approx(expected.impressions, rel=1e-5)
        assert record["clicks"] == pytest.approx(expected.clicks, rel=1e-5)
        assert record["as_of"] == expected.as_of
        if side == "user":
            assert [tuple(seen) for seen in rows.histories[place]] == [tuple(seen) for seen in expected.history]
    assert bool(rows.histories) == (side == "user")


def test_catalogue_rows_equal_export_except_counts(exported: Exported, tmp_path: Path) -> None:
    """The items of the dataset as if they were new ads that a teacher wrote about: features and words to the bit, the
    meaning of texts within a step of fp16."""
    bundle, table = exported.bundle, exported.inputs.dataset.items
    (tmp_path / "items").mkdir()
    columns = [name for name in ("text", *bundle.schema.settable["item"]) if name in table.columns]
    known = exported.inputs.knowledge.items
    words = [known[one].model_dump(exclude={"id", "known"}) if one in known else None for one in table["item_id"]]
    named = pl.col("item_id").alias("id")
    table.select(named, *columns, pl.Series("knowledge", words)).write_parquet(tmp_path / "items" / "all.parquet")
    done = make(tmp_path / "items", bundle, tmp_path / "out")
    ids, rows = _read(exported, "item")
    codec = RowCodec(bundle.schema, "item", bundle.bundle_id)
    made = {one: row for rows in read_part(tmp_path / "out" / "all.parquet") for one, row in rows}
    assert (done.rows, done.vectors) == (len(table), 79)
    own = rows.records[[ids.index(one) for one in made]]
    new = codec.unpack(list(made.values())).records
    for name in ("flags", "bundle", "categorical", "numeric"):
        assert np.array_equal(new[name], own[name])
    step = np.spacing(np.maximum(np.abs(new["semantic"]), np.abs(own["semantic"])))
    difference = np.abs(new["semantic"].astype(np.float32) - own["semantic"])
    taught = np.array([one in known for one in made]) & has_semantic(own)
    half = new["semantic"].shape[1] // 2
    assert taught.sum() > 60
    assert np.array_equal(new["semantic"][taught, half:], own["semantic"][taught, half:])
    # Where a number is near zero, a step is less than what the encoder's own parity allows.
    assert (difference <= np.maximum(step, 1e-5)).all()
    assert new["semantic"].any(axis=1).sum() == 79
    assert not new["as_of"].any()


def test_knowledge_replaces_guessed_words_of_a_text(exported: Exported) -> None:
    rows, answer = (
        ItemRows(exported.bundle),
        {"explicit": "Games.", "implicit": "For fans.", "tags": ["games", "quest"]},
    )
    known: list[object] = [None, "", "zebra", answer, "Games. games, quest For fans.", {**answer, "tags": None}]
    columns: dict[str, Sequence[object]] = {"id": list("abcdef"), "text": ["A quest."] * 6, "knowledge": known}
    semantic = rows.pack(columns)[1]["semantic"]
    half = semantic.shape[1] // 2
    guess, (meant, written, by_words, fewer) = semantic[:3], (semantic[0, :half], *semantic[3:, half:])
    assert (semantic[:, :half] == meant).all()
    assert (guess == guess[0]).all()
    assert np.array_equal(written, by_words)
    assert not np.array_equal(written, guess[0, half:])
    assert not np.array_equal(written, fewer)
    assert not rows.pack({**columns, "text": [None] * 6})[1]["semantic"].any()
    # A word that is in no bag says nothing: the row is not called a taught one.
    assert rows.contents(columns)[2].tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize("knowledge", [7, ["x"], {"explicit": 1}, {"tags": [None]}, {"id": "a"}, "x" * 40_001])
def test_knowledge_of_another_form_is_refused(exported: Exported, knowledge: object) -> None:
    with pytest.raises(WrongValue, match="knowledge should") as error:
        ItemRows(exported.bundle).pack({"id": ["a", "b"], "knowledge": [None, knowledge]})
    assert error.value.place == 1


def test_changed_words_are_refused(exported: Exported, tmp_path: Path) -> None:
    shutil.copytree(exported.bundle.folder, tmp_path / "bundle")
    (tmp_path / "bundle" / WORDS).write_bytes(exported.bundle.path(WORDS).read_bytes() + b"x")
    with pytest.raises(BundleError, match="words.bin: its SHA-256 is not the manifest's"):
        ItemRows(replace(exported.bundle, folder=tmp_path / "bundle"))


Requests = list[dict[str, Any]]


@pytest.fixture(scope="module")
def requests(exported: Exported) -> Requests:
    return list(serving_requests(exported.inputs.dataset, exported.features, 10_000))


def test_each_test_row_is_a_request(exported: Exported, requests: Requests) -> None:
    dataset, features = exported.inputs.dataset, exported.features
    rows = features.of_part(Part.TEST)
    assert len(requests) == len(rows)
    items = features.item.entities.ids
    for number, (request, row) in enumerate(zip(requests, rows.tolist(), strict=True)):
        event = dataset.events.row(row, named=True)
        assert request["at"] == event["at"]
        assert request["candidates"]["id"][0] == event["item_id"]
        assert len(request["candidates"]["id"]) == 5
        if number % 6:
            assert request["user_id"] == event["user_id"]
            assert request["context"] == {"device": event["device"], "hour": event["hour"]}
            held = [items[place] for place in features.history[row].tolist() if place >= 0]
            assert list(dict.fromkeys(seen["item_id"] for seen in request["user"]["history"])) == held


def test_requests_have_the_outcomes_of_their_rows(exported: Exported) -> None:
    """Of a test row, the service assembles the history that the features have, from the exported rows."""
    features, rows = exported.features, BundleRows.of(exported.bundle)
    several = 0
    for row in features.of_part(Part.TEST).tolist():
        golden = rows.golden(plain_request(exported.inputs.dataset, features, row))
        tensors, expected = rows.tensors(golden), features.history_outcomes[row].numpy()
        np.testing.assert_array_equal(tensors["history_outcomes"][0, :, :3], expected[:, :3])
        np.testing.assert_allclose(tensors["history_outcomes"][0, :, 3], expected[:, 3], atol=1e-5)
        np.testing.assert_array_equal(tensors["history_mask"][0], expected[:, 1] > 0)
        several += bool((expected[:, 0] > 1).any())
    assert several > 0


def test_requests_cover_missing_and_unknown_values(exported: Exported, requests: Requests) -> None:
    schema, items = exported.bundle.schema, exported.features.item.entities.place
    users = exported.features.user.entities.place
    checked = [parse_request(json.dumps(asked).encode(), schema) for asked in requests]
    assert [one.candidates.id for one in checked] == [asked["candidates"]["id"] for asked in requests]
    of_items = [{item: told.features or {} for item, told in (one.items or {}).items() if told} for one in checked]
    given = [(one.candidates.id, described) for one, described in zip(checked, of_items, strict=True)]
    cases = {
        "unknown user": any(one.user_id not in users for one in checked),
        "unknown item": any(ids[-1] not in items and not described for ids, described in given),
        "described item": any(described.get(ids[-1], {}).get("price") for ids, described in given),
        "no context": any(not one.context for one in checked),
        "missing user features": any(one.user and one.user.features == {"age": None, "city": None} for one in checked),
        "missing item features": any(None in described.get(ids[0], {}).values() for ids, described in given),
        "stored history": any(not one.user or one.user.history is None for one in checked),
        "unknown id in a history": any(one.user and {*one.user.shown[:1]} - {*items} for one in checked),
    }
    assert not [name for name, found in cases.items() if not found]


def test_requests_are_deterministic_and_spread(exported: Exported, requests: Requests) -> None:
    assert list(serving_requests(exported.inputs.dataset, exported.features, 10_000)) == requests
    few = list(serving_requests(exported.inputs.dataset, exported.features, 7))
    assert len(few) == 7
    assert (few[0]["at"], few[-1]["at"]) == (requests[0]["at"], requests[-1]["at"])


@pytest.mark.parametrize("delay_s", [0.0, 600.0])
def test_click_rates_of_histories_after_train_are_those_of_rows(exported: Exported, delay_s: float) -> None:
    dataset, features, schema = exported.inputs.dataset, exported.features, exported.bundle.schema
    state, at = schema.state("item"), dataset.events["at"].to_numpy()
    assert state is not None
    timeline = walk_events(dataset, schema, features.parts, features.user.entities, features.item.entities, delay_s)
    rates = encode_counts(state, Counts.of(_read(exported, "item")[1].records), 0.0)[:, 0]

    rows, places = np.nonzero((timeline.history >= 0) & (at > timeline.ends_at + delay_s)[:, None])
    found = timeline.outcomes[rows, places, OUTCOME_FEATURES.index("smoothed_log_odds")]
    assert len(rows)
    np.testing.assert_allclose(found, rates[timeline.history[rows, places]], atol=1e-5)


EVERY = 1_000_000


def replayed(bundle: Path, period: Period, folder: Path, delay_s: float | None) -> LiveScores:
    """The scores of a service that gets the events after a delay; without one it has no live states."""
    folder.mkdir()
    live = "off" if delay_s is None else "on"
    settings = {"live": live, "live_lag_seconds": 1e9, "state_dir": folder / "state", "deadline_ms": 60_000}
    with live_service(bundle, folder, **settings) as service:  # type: ignore[arg-type]
        return replay_moments(service.url, period.moments, len(period.labels), delay_s)


@pytest.mark.parametrize("delay_s", [0.0, 600.0, 86_400.0])
def test_live_scores_equal_offline(run: Run, exported: Exported, tmp_path: Path, delay_s: float) -> None:
    """Valid and test come after all that the exported rows know of."""
    bundle = exported.bundle.folder
    period = period_of(run.dataset, bundle, EVERY)
    live = replayed(bundle, period, tmp_path / "live", delay_s)
    offline = offline_scores(TrainedFolders(run.dataset, run.student, run.semantic, bundle), EVERY, delay_s)

    assert period.is_after
    assert (live.accepted, live.duplicates) == (sum(len(moment.events) for moment in period.moments), 0)
    # Vectors are rounded to fp16 in rows.
    assert live.scores == pytest.approx(offline, abs=1e-3)


def test_live_scores_from_nothing_equal_offline(run: Run, exported: Exported, tmp_path: Path) -> None:
    """And what is not told is not known: rows without counts and histories are scored as such."""
    period = period_of(run.dataset, exported.bundle.folder, EVERY, from_nothing=True)
    bare = bare_bundle(exported.bundle.folder, tmp_path / "bare", period.before)
    offline = offline_scores(TrainedFolders(run.dataset, run.student, run.semantic, bare), EVERY)
    scores = [replayed(bare, period, tmp_path / f"{delay_s}", delay_s).scores for delay_s in (0.0, None)]

    assert open_bundle(bare).bundle_id == exported.bundle.bundle_id
    assert scores[0] == pytest.approx(offline, abs=1e-3)
    assert np.abs(scores[1] - offline).max() > 0.01
