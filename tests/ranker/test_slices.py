"""Every test row is in a slice of everything, and no slice is dropped for being small."""

import numpy as np
import pytest

from msd.dataset.load import Dataset
from msd.dataset.split import Part, split_events
from msd.evaluation.slices import FEWEST_ROWS, MISSING, MOST_VALUES, slice_rows, unmeasurable
from tests.ranker.made import World, dataset_of


def _of(dataset: Dataset) -> tuple[dict[str, dict[str, list[int]]], np.ndarray]:
    """Slices by `by` and value, and the events of the test part."""
    parts = split_events(dataset.events, dataset.config)
    test = np.flatnonzero(parts == Part.TEST)
    found: dict[str, dict[str, list[int]]] = {}
    for one in slice_rows(dataset, parts, test):
        assert one.value not in found.setdefault(one.by, {})
        found[one.by][one.value] = one.rows.tolist()
    return found, test


def test_every_row_is_in_exactly_one_slice_of_all_but_bags(world: World) -> None:
    found, test = _of(world.dataset)
    names = [feature.name for feature in world.dataset.config.features]
    assert list(found) == ["user", "item", "item frequency", *names]
    for by, slices in found.items():
        rows = [row for held in slices.values() for row in held]
        assert all(slices.values()), by
        assert set(rows) == set(range(len(test))), by
        assert by == "topics" or len(rows) == len(test), by


def test_cold_is_who_was_never_trained() -> None:
    rows = [("a", f"i{n % 4}", n, n % 2) for n in range(10)] + [("new", "i1", 5, 1)]
    rows += [("b", f"i{n % 2}", 100 + n, 1) for n in range(9)] + [("b", "fresh", 200, 0)]
    dataset = dataset_of(rows)
    found, test = _of(dataset)
    events = dataset.events
    assert [events["user_id"][int(test[row])] for row in found["user"]["cold"]] == ["new"]
    assert [events["item_id"][int(test[row])] for row in found["item"]["cold"]] == ["fresh"]
    assert found["item frequency"]["0 training rows"] == found["item"]["cold"]
    assert set(found["item frequency"]) == {"0 training rows", "1–9"}


def test_rare_values_stand_together_and_missing_ones_apart() -> None:
    colours = [f"c{n:02}" for n in range(MOST_VALUES + 3)]
    # Each user's last event is the test row; the first three colours are seen twice.
    shown: list[str | None] = [*colours, *colours[:3], None]
    rows = [(f"u{n:02}", "i", n * 100 + place, place % 2) for n in range(len(shown)) for place in range(10)]
    features = [{"name": "colour", "side": "context", "kind": "categorical"}]
    dataset = dataset_of(rows, events={"colour": [one for one in shown for _ in range(10)]}, features=features)
    found, test = _of(dataset)
    assert len(test) == len(shown)
    slices = found["colour"]
    assert list(slices) == [*colours[:MOST_VALUES], "(3 rarer values)", MISSING]
    assert [len(slices[one]) for one in (*colours[:4], "(3 rarer values)", MISSING)] == [2, 2, 2, 1, 3, 1]


@pytest.mark.parametrize(
    ("prices", "expected"),
    [
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], ["1 to 2", "3 to 4", "5 to 6", "7 to 8"]),
        ([5.0] * 8, ["5 to 5"]),
        ([0.0] * 6 + [1.0, None], ["0 to 0", "1 to 1", MISSING]),
        ([None] * 8, [MISSING]),
    ],
)
def test_numbers_are_cut_into_quarters_where_they_differ(prices: list[float | None], expected: list[str]) -> None:
    rows = [(f"u{n}", "i", n * 100 + place, place % 2) for n in range(8) for place in range(10)]
    features = [{"name": "price", "side": "context", "kind": "numeric"}]
    dataset = dataset_of(rows, events={"price": [one for one in prices for _ in range(10)]}, features=features)
    assert list(_of(dataset)[0]["price"]) == expected


def test_an_item_of_two_topics_counts_in_both(world: World) -> None:
    found, test = _of(world.dataset)
    topics = dict(zip(world.dataset.items["item_id"], world.dataset.items["topics"].to_list(), strict=True))
    for topic, rows in found["topics"].items():
        for row, event in enumerate(test.tolist()):
            held = topics[world.dataset.events["item_id"][event]]
            assert (row in rows) == (topic in held if held else topic == MISSING)


def test_why_a_slice_is_not_measured() -> None:
    mixed = np.tile([0.0, 1.0], FEWEST_ROWS // 2)
    assert unmeasurable(mixed) is None
    assert unmeasurable(mixed[1:]) == f"fewer than {FEWEST_ROWS} rows"
    assert unmeasurable(np.ones(FEWEST_ROWS)) == "one label only"
