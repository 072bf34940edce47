"""What a row may know of the past, proved against a slow and plain count over all rows: nothing leaks."""

import tracemalloc
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import native
from msd.contract.schema import Categorical, FeatureSchema, Sequence, State
from msd.contract.tensors import MOST_SHOWN
from msd.dataset.load import Dataset
from msd.dataset.split import Part
from msd.ranker.features import build_features
from msd.ranker.schema_fit import fit_schema
from msd.ranker.timeline import Timeline, encode_entities, walk_events
from msd.student.vectors import no_vectors
from tests.ranker.made import Columns, dataset_of
from tests.reference.schema import MISSING, UNKNOWN, encode_counts

HALF_LIFE_S = 40.0
AGE_CAP_S = 80.0
LENGTH = 4
STATE = State(name="item_counts", side="item", prior=0.1, strength=1.0, half_life_s=HALF_LIFE_S, age_cap_s=AGE_CAP_S)
SCHEMA = FeatureSchema(
    fields=(
        Categorical(name="user_id", side="user", is_id=True),
        Categorical(name="item_id", side="item", is_id=True),
        Sequence(name="history", length=LENGTH),
        State(name="user_counts", side="user", prior=0.1, strength=1.0, half_life_s=HALF_LIFE_S, age_cap_s=AGE_CAP_S),
        STATE,
    )
)


class Past(NamedTuple):
    """A dataset in time order and the part of each row."""

    dataset: Dataset
    parts: NDArray[np.int8]


@st.composite
def pasts(draw: st.DrawFn) -> Past:
    """Up to 20 events at few times, so that many are simultaneous, the first of them a training row."""
    row = st.tuples(
        st.sampled_from(["u0", "u1"]), st.sampled_from(["i0", "i1", "i2"]), st.integers(1, 9), st.integers(0, 1)
    )
    rows = draw(st.lists(row, min_size=1, max_size=20))
    parts = draw(st.lists(st.sampled_from(Part), min_size=len(rows), max_size=len(rows)))
    dataset = dataset_of([(user, item, 10 * at, label) for user, item, at, label in rows])
    # A user and an item between others that no event knows.
    users, items = pl.DataFrame({"user_id": ["u0", "new", "u1"]}), pl.DataFrame({"item_id": ["i0", "new", "i1", "i2"]})
    return Past(replace(dataset, users=users, items=items), np.array([Part.WINDOW, *parts[1:]], np.int8))


def walk(past: Past, delay_s: float = 0.0, closed: bool = False) -> Timeline:
    users, items = (encode_entities(past.dataset, SCHEMA, side) for side in ("user", "item"))
    return walk_events(past.dataset, SCHEMA, past.parts, users, items, delay_s, closed=closed)


def _counted(past: Past, row: int, key: str) -> list[tuple[int, int]]:
    """(at, label) of the window and train rows of the row's user or item, strictly earlier."""
    events = past.dataset.events
    return _earlier(past, key, events[key][row], events["at"][row])


def _earlier(past: Past, key: str, entity: str, now: float) -> list[tuple[int, int]]:
    """(at, label) of the window and train rows of a user or item, strictly earlier than `now`."""
    events = past.dataset.events
    known = zip(events[key], events["at"], events["label"], past.parts, strict=True)
    return [(at, label) for one, at, label, part in known if one == entity and at < now and part <= Part.TRAIN]


def _faded(rows: list[tuple[int, int]], as_of: float) -> tuple[float, float, float]:
    weights = [2.0 ** ((at - as_of) / HALF_LIFE_S) for at, _ in rows]
    return sum(weights), sum(w for w, (_, label) in zip(weights, rows, strict=True) if label), as_of


@settings(max_examples=60)
@given(past=pasts(), delay=st.sampled_from([0, 5, 10, 30]), closed=st.booleans())
def test_history_is_the_users_impressions_that_are_known(past: Past, delay: int, closed: bool) -> None:
    """Clicked or not, one entry an item, with how often and when it was last seen, and its click rate before. If
    closed, none of valid and test is known."""
    timeline, events = walk(past, delay, closed), past.dataset.events.with_columns(part=past.parts)
    told = events.filter(pl.col("part") <= Part.TRAIN) if closed else events
    items = encode_entities(past.dataset, SCHEMA, "item").ids
    counted_until = float(events["at"].to_numpy()[past.parts <= Part.TRAIN].max())
    for row, (user, now) in enumerate(events.select("user_id", "at").iter_rows()):
        mine = told.filter((pl.col("user_id") == user) & (pl.col("at") < now - delay)).group_by("item_id")
        seen = mine.agg(pl.col("at").max(), n=pl.len(), k=pl.col("label").sum()).sort("at", "item_id")
        length = seen.height
        assert [items[place] for place in timeline.history[row][:length]] == seen["item_id"].to_list()
        assert (timeline.history[row][length:] == -1).all()
        outcomes = timeline.outcomes[row]
        assert not outcomes[length:].any()
        np.testing.assert_allclose(outcomes[:length, 0], np.minimum(seen["n"], MOST_SHOWN))
        np.testing.assert_allclose(outcomes[:length, 1], seen["k"] * np.minimum(1.0, MOST_SHOWN / seen["n"]), rtol=1e-6)
        np.testing.assert_allclose(outcomes[:length, 2], (now - seen["at"]) / 86_400, rtol=1e-6)
        then = min(now - delay, np.nextafter(counted_until, np.inf))
        for place, item in enumerate(seen["item_id"]):
            faded = _faded(_earlier(past, "item_id", item, then), then)
            rate = encode_counts(STATE.model_dump(), *faded, then)[0]
            np.testing.assert_allclose(outcomes[place, 3], rate, rtol=1e-5, atol=1e-6)


def _as_of(walk: "native.core.EventWalk") -> float:
    """The time of the last event of the first one."""
    found = walk.final_state(0)
    assert found is not None
    return found[2]


def test_core_refuses_columns_that_do_not_fit() -> None:
    """No memory outside of the arrays is read or written, whatever a caller gives."""
    right: dict[str, Any] = {"half_life_s": 40.0, "history_length": 2, "delay_s": 0.0, "closed": False}
    right |= {"at": np.array([1.0, 2.0]), "times": np.ones(2), "clicked": np.ones(2, bool), "counted": np.ones(2, bool)}
    right |= {"entities": np.zeros(2, np.int32), "items": np.zeros(2, np.int32), "ranks": np.zeros(1, np.int32)}
    right |= {"starts": np.array([0, 3]), "live": np.zeros((3, 2)), "before": np.zeros(2, np.int64)}
    right |= {"states": np.zeros((4, 3)), "history": np.zeros((2, 2), np.int32)}
    right |= {"outcomes": np.zeros((2, 2, 4), np.float32)}
    walk = native.core.walk_events(**right)
    assert _as_of(walk) == 2.0
    assert walk.final_state(2) is None
    wrong = (
        ("entities", np.array([0, 2], np.int32)),
        ("entities", np.array([0, -1], np.int32)),
        ("items", np.array([0, 1], np.int32)),
        ("ranks", np.ones(1, np.int32)),
        ("starts", np.array([2, 3])),
        ("starts", np.array([-1, 3])),
        ("starts", np.zeros(0, np.int64)),
        ("states", np.zeros((3, 3))),
        ("live", np.zeros(5)),
        ("history", np.zeros(3, np.int32)),
        ("outcomes", np.zeros(15, np.float32)),
    )
    for name, column in wrong:
        with pytest.raises(ValueError, match=r"smaller|known|room|order|unknown"):
            native.core.walk_events(**(right | {name: column}))
    # A negative delay, which no command can give, knows all events at once, and none behind the last.
    assert _as_of(native.core.walk_events(**(right | {"delay_s": -9.0}))) == 2.0
    with pytest.raises(ValueError, match="known"):
        walk.places_before(np.array([2], np.int32), np.ones(1), np.zeros(1, np.int64))


@settings(max_examples=60)
@given(past=pasts(), delay=st.sampled_from([0, 5, 10, 30]))
def test_live_counts_are_of_events_that_are_known(past: Past, delay: int) -> None:
    timeline, at = walk(past, delay), past.dataset.events["at"]
    every = past._replace(parts=np.zeros_like(past.parts))
    for row in range(len(at)):
        for key, counts in (("user_id", timeline.user.live), ("item_id", timeline.item.live)):
            known = _earlier(every, key, past.dataset.events[key][row], at[row] - delay)
            np.testing.assert_allclose([column[row] for column in counts], _faded(known, at[row]), rtol=1e-9)


@settings(max_examples=60)
@given(past=pasts())
def test_counts_are_of_earlier_training_rows(past: Past) -> None:
    timeline, at = walk(past), past.dataset.events["at"]
    for row in range(len(at)):
        for key, counts in (("user_id", timeline.user.fresh), ("item_id", timeline.item.fresh)):
            known = _counted(past, row, key)
            # A user's later rows are not counted, so what is known of him is as old as his last counted row.
            stale = key == "user_id" and past.parts[row] > Part.TRAIN
            as_of = max((time for time, _ in known), default=0) if stale else at[row]
            np.testing.assert_allclose([column[row] for column in counts], _faded(known, as_of), rtol=1e-9)


@settings(max_examples=60)
@given(past=pasts())
def test_aged_counts_are_of_an_earlier_time(past: Past) -> None:
    timeline, at = walk(past), past.dataset.events["at"]
    for row in range(len(at)):
        for key, draws in (("user_id", timeline.user.aged), ("item_id", timeline.item.aged)):
            known = _counted(past, row, key)
            for draw, counts in enumerate(draws):
                found = [column[row] for column in counts]
                if draw % 2:
                    earlier = [(known[:n], known[n - 1][0]) for n in range(1, len(known) + 1)]
                    expected = [(0.0, 0.0, 0.0), *(_faded(*one) for one in earlier)]
                    assert any(np.allclose(found, one, rtol=1e-9) for one in expected)
                else:
                    then = found[2]
                    assert max(0.0, at[row] - AGE_CAP_S / 2) <= then <= at[row]
                    earlier_rows = [(time, label) for time, label in known if time < then]
                    np.testing.assert_allclose(found, _faded(earlier_rows, then), rtol=1e-9)


@settings(max_examples=60)
@given(past=pasts(), data=st.data())
def test_later_label_changes_nothing_earlier(past: Past, data: st.DataObject) -> None:
    events = past.dataset.events
    flipped = data.draw(st.integers(0, events.height - 1))
    labels = events["label"].to_numpy().copy()
    labels[flipped] = 1 - labels[flipped]
    changed = replace(past.dataset, events=events.with_columns(label=pl.Series(labels)))
    before, after = walk(past), walk(Past(changed, past.parts))
    # Rows at the very time of the flipped one did not know of it either.
    unmoved = (events["at"] <= events["at"][flipped]).to_numpy()
    assert np.array_equal(before.history[unmoved], after.history[unmoved])
    assert np.array_equal(before.outcomes[unmoved], after.outcomes[unmoved])
    for old, new in ((before.user, after.user), (before.item, after.item)):
        for one, other in zip(old[:3], new[:3], strict=True):
            assert np.array_equal(np.array(one)[..., unmoved], np.array(other)[..., unmoved])


def test_final_states_are_of_training_rows() -> None:
    rows = [("u", "a", 10, 1), ("u", "b", 20, 1), ("u", "c", 30, 1), ("u", "d", 40, 1)]
    timeline = walk(Past(dataset_of(rows), np.array(list(Part), np.int8)))
    assert timeline.ends_at == 20.0
    assert [seen.item_id for seen in timeline.user.final[0].history] == ["a", "b"]
    assert timeline.user.final[0].as_of == 20.0
    assert {row: state.clicks for row, state in timeline.item.final.items() if state.clicks} == {0: 1.0, 1: 1.0}
    assert all(state.history == () for state in timeline.item.final.values())
    # But the last row's history holds the clicks of valid.
    assert (timeline.history[3] >= 0).sum() == 3


def test_equal_events_age_equally() -> None:
    rows = [("u", f"i{n % 3}", 10 * n, n % 2) for n in range(30)]
    past = Past(dataset_of(rows), np.zeros(30, np.int8))
    one, other = np.array(walk(past).user.aged), np.array(walk(past).user.aged)
    assert np.array_equal(one, other)
    assert all(len(set(draw[2].tolist())) > 3 for draw in one)


def test_walk_holds_histories_once() -> None:
    """They take most of a large dataset's memory."""
    rows = [(f"u{n % 10}", f"i{n % 3}", n, n % 2) for n in range(4_000)]
    longer = Sequence(name="history", length=200)
    schema = FeatureSchema(fields=tuple(longer if field.kind == "sequence" else field for field in SCHEMA.fields))
    dataset = dataset_of(rows)
    users, items = (encode_entities(dataset, schema, side) for side in ("user", "item"))
    tracemalloc.start()
    timeline = walk_events(dataset, schema, np.zeros(len(rows), np.int8), users, items)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1.5 * (timeline.history.nbytes + timeline.outcomes.nbytes)


ROWS = [("u", "known" if n % 2 else "shown", 100 * n, n % 2) for n in range(10)]
ITEMS: Columns = {"item_id": ["known", "never"], "genre": ["x", "y"], "price": [2.0, None]}
FEATURES = [
    {"name": "genre", "side": "item", "kind": "categorical"},
    {"name": "price", "side": "item", "kind": "numeric"},
]


def _made() -> Dataset:
    return dataset_of(ROWS, items=ITEMS, features=FEATURES)


def test_entities_are_table_ids_then_event_ids() -> None:
    items = encode_entities(_made(), fit_schema(_made()), "item")
    assert items.ids == ["known", "never", "shown"]
    assert items.place == {"known": 0, "never": 1, "shown": 2}
    assert items.unknown == 3
    assert len(items.categorical) == len(items.numeric) == 4
    assert encode_entities(_made(), fit_schema(_made()), "user").ids == ["u"]
    # An ID of events alone has an embedding, and its features are missing.
    schema = fit_schema(_made())
    id_column, genre = schema.columns["item_id"].start, schema.columns["genre"].start
    assert items.categorical[:, id_column].tolist()[:2] == [2, UNKNOWN]
    assert items.categorical[2, id_column] == 3
    assert items.categorical[:, genre].tolist() == [2, UNKNOWN, MISSING, MISSING]
    assert items.numeric[:, 1].tolist() == [0.0, 1.0, 1.0, 1.0]


def test_events_have_their_entities_rows_and_the_last_is_missing(tiny: Dataset) -> None:
    schema = fit_schema(tiny)
    for side in ("user", "item"):
        entities = encode_entities(tiny, schema, side)
        assert not entities.categorical[entities.unknown].any()
        assert entities.numeric[entities.unknown].tolist() == [0.0, 1.0] * (schema.numeric_width(side) // 2)
        places = entities.places(tiny.events[f"{side}_id"])
        assert places.dtype == np.int32
        assert [entities.ids[place] for place in places] == tiny.events[f"{side}_id"].to_list()


def test_anonymous_impressions_count_for_items_and_have_no_user() -> None:
    """Pages of anonymous visitors, whose stand-ins come twice each."""
    rows = [
        ("\0r1", "i0", 10, 1),
        ("\0r1", "i1", 10, 0),
        ("u0", "i0", 20, 0),
        ("\0r2", "i0", 30, 0),
        ("\0r2", "i1", 40, 1),
        ("u0", "i1", 50, 0),
        ("u0", "i0", 60, 0),
        ("\0r3", "i1", 70, 0),
    ]
    parts = ["window", "window", "train", "train", "train", "train", "valid", "test"]
    later = [(user, item, 1_700_000_000 + at, label) for user, item, at, label in rows]
    dataset = dataset_of(later, events={"part": parts}, split={"column": "part"})
    schema = fit_schema(dataset, semantics=False)
    features = build_features(dataset, schema, no_vectors())
    users, anonymous = features.user, dataset.events["user_id"].str.starts_with("\0").to_numpy()

    assert schema.indexed("user")[0].vocabulary == ("u0",)
    assert users.entities.ids == ["u0"]
    assert users.rows.numpy()[anonymous].tolist() == [users.entities.unknown] * 5
    for dense in (users.dense, users.live_dense, *users.aged_dense):
        assert torch.equal(dense[anonymous], users.unknown_dense.expand(5, -1))
    assert (features.history.numpy()[anonymous] == -1).all()
    assert (features.history.numpy()[6] >= 0).sum() == 2
    assert len(set(features.people(np.arange(8)).tolist())) == 6, "each is its own, and u0 is one"
    assert [round(features.timeline.item.final[place].impressions) for place in range(2)] == [3, 3]
    assert set(features.timeline.user.final) == {0}
