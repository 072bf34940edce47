"""Every test row is in a slice of everything, and no slice is dropped for being small."""

import numpy as np
import pytest

from msd.dataset.load import Dataset
from msd.dataset.split import Part, split_events
from msd.evaluation.slices import FEWEST_ROWS, MISSING, MOST_VALUES, slice_rows, unmeasurable
from msd.evaluation.within import CHANCE, Compared, how_sure, measure_within
from tests.ranker.made import World, dataset_of


def _of(dataset: Dataset) -> tuple[dict[str, dict[str, list[int]]], np.ndarray]:
    """Slices by `by` and value, and the events of the test part."""
    parts = split_events(dataset.events, dataset.config)
    test = np.flatnonzero(parts == Part.TEST)
    found: dict[str, dict[str, list[int]]] = {}
    for row in slice_rows(dataset, parts, test):
        assert row.value not in found.setdefault(row.by, {})
        found[row.by][row.value] = row.rows.tolist()
    return found, test


def test_slices_cover_every_row_once_except_bags(world: World) -> None:
    found, test = _of(world.dataset)
    names = [feature.name for feature in world.dataset.config.features]
    assert list(found) == ["user", "item", "item frequency", *names]
    for by, slices in found.items():
        rows = [row for held in slices.values() for row in held]
        assert all(slices.values()), by
        assert set(rows) == set(range(len(test))), by
        assert by == "topics" or len(rows) == len(test), by


def test_cold_means_no_training_row() -> None:
    rows = [("a", f"i{n % 4}", n, n % 2) for n in range(10)] + [("new", "i1", 5, 1)]
    rows += [("b", f"i{n % 2}", 100 + n, 1) for n in range(9)] + [("b", "fresh", 200, 0)]
    dataset = dataset_of(rows)
    found, test = _of(dataset)
    events = dataset.events
    assert [events["user_id"][int(test[row])] for row in found["user"]["cold"]] == ["new"]
    assert [events["item_id"][int(test[row])] for row in found["item"]["cold"]] == ["fresh"]
    assert found["item frequency"]["0 training rows"] == found["item"]["cold"]
    assert set(found["item frequency"]) == {"0 training rows", "1–9"}


def test_rare_values_are_grouped_and_missing_separate() -> None:
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
def test_numbers_are_sliced_into_quarters(prices: list[float | None], expected: list[str]) -> None:
    rows = [(f"u{n}", "i", n * 100 + place, place % 2) for n in range(8) for place in range(10)]
    features = [{"name": "price", "side": "context", "kind": "numeric"}]
    dataset = dataset_of(rows, events={"price": [price for price in prices for _ in range(10)]}, features=features)
    assert list(_of(dataset)[0]["price"]) == expected


def test_bag_values_count_in_each_slice(world: World) -> None:
    found, test = _of(world.dataset)
    topics = dict(zip(world.dataset.items["item_id"], world.dataset.items["topics"].to_list(), strict=True))
    for topic, rows in found["topics"].items():
        for row, event in enumerate(test.tolist()):
            held = topics[world.dataset.events["item_id"][event]]
            assert (row in rows) == (topic in held if held else topic == MISSING)


def test_unmeasurable_slices_have_a_reason() -> None:
    mixed = np.tile([0.0, 1.0], FEWEST_ROWS // 2)
    assert unmeasurable(mixed) is None
    assert unmeasurable(mixed[1:]) == f"fewer than {FEWEST_ROWS} rows"
    assert unmeasurable(np.ones(FEWEST_ROWS)) == "one label only"


# Two tests. The first has arms with 10, 30 and 20 clicks of 100 (rows without and with a click), the second 5 and 5.
CLICKS = np.array([10.0, 30.0, 20.0, 5.0, 5.0])
LABELS = np.tile([0.0, 1.0], 5)
SHOWN = np.stack([100 - CLICKS, CLICKS], 1).flatten()
GROUPS = np.repeat([7, 7, 7, 9, 9], 2)
ITEMS = np.repeat(np.arange(5), 2)


COMPARED = Compared.of(LABELS, SHOWN, GROUPS, ITEMS)


def by_arm(*scores: float) -> np.ndarray:
    return COMPARED.scores(SHOWN, np.repeat(scores, 2))


def test_arms_and_pairs_by_hand() -> None:
    held = COMPARED
    assert held.clicks.tolist() == CLICKS.tolist()
    assert held.shown.tolist() == [100.0] * 5
    # Arms of equal rates make no pair.
    assert list(zip(held.left.tolist(), held.right.tolist(), strict=True)) == [(1, 0), (2, 0), (1, 2)]
    assert held.z == pytest.approx(
        [0.2 / np.sqrt(0.2 * 0.8 * 0.02), 0.1 / np.sqrt(0.15 * 0.85 * 0.02), 0.1 / np.sqrt(0.25 * 0.75 * 0.02)]
    )


def test_figures_by_hand() -> None:
    models = {"good": by_arm(0.1, 0.3, 0.2, 0.1, 0.2)[None], "bad": by_arm(0.3, 0.1, 0.2, 0.1, 0.2)[None]}
    found = measure_within(COMPARED, models, "good", 100, 0)
    assert (found["groups"], found["pairs"], found["significant_pairs"]) == (2, 3, 2)
    values = {name: {metric: one["value"] for metric, one in told.items()} for name, told in found["models"].items()}
    assert values["good"] == {"pair_accuracy": 1.0, "significant_pair_accuracy": 1.0, "regret": 0.0}
    # It shows what is clicked 10 times of 100 where 30 could be had, in one of two tests.
    assert values["bad"] == pytest.approx({"pair_accuracy": 0.0, "significant_pair_accuracy": 0.0, "regret": 100.0})
    assert values[CHANCE] == pytest.approx({"pair_accuracy": 0.5, "significant_pair_accuracy": 0.5, "regret": 50.0})
    assert [(one["model"], one["minus"]) for one in found["differences"]] == [("good", "bad"), ("good", CHANCE)]
    assert found["differences"][0]["regret"]["difference"] == pytest.approx(-100.0)


def test_pair_accuracy_rises_with_the_difference() -> None:
    rng = np.random.default_rng(0)
    groups, items = np.repeat(np.arange(300), 4), np.tile([0, 0, 1, 1], 300)
    truth = rng.normal(-3, 0.5, 600)
    shown = np.full(600, 4_000)
    clicks = rng.binomial(shown, 1 / (1 + np.exp(-truth)))
    weights = np.stack([shown - clicks, clicks], 1).flatten().astype(np.float64)
    held = Compared.of(np.tile([0.0, 1.0], 600), weights, groups, items)
    told = how_sure(held, truth + rng.normal(0, 0.5, 600))
    assert sum(int(step["pairs"]) for step in told) == len(held.z)
    assert told[0]["above"] == 0.0
    assert told[0]["right"] < 0.7 < 0.85 < told[-1]["right"]
    # Too few pairs tell nothing.
    assert how_sure(COMPARED, by_arm(0.1, 0.2, 0.3, 0.4, 0.5)) == []
