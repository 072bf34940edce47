"""The report is a page that shows every figure and escapes names; slices cover all test rows; tests are compared."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msd.dataset.load import Dataset
from msd.dataset.split import Part, split_events
from msd.evaluation.evaluation_report import Scale, write_report
from msd.evaluation.slices import FEWEST_ROWS, MISSING, MOST_VALUES, slice_rows, unmeasurable
from msd.evaluation.within import CHANCE, Compared, how_sure, measure_within
from tests.ranker.made import World, dataset_of

HOSTILE = "<script>alert('x')</script> $\\frac{ & \"co\" 電影"
ESCAPED = "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; $\\frac{ &amp; &#34;co&#34; 電影"
NUMBERS = {"auc": 0.7712, "gauc": None, "logloss": 0.5123, "ece": 0.0123, "predicted_over_observed": 1.01}

VERDICT = {"model": HOSTILE, "minus": "without", "gain": 0.0031, "ci95": (-0.0021, 0.0088), "unit": "users"}
PAIRS = {"groups": 295, "pairs": 2_871, "significant_pairs": 555}
WITHIN = {
    name: {
        "pair_accuracy": {"value": 0.5762, "ci95": (0.5551, 0.6003)},
        "significant_pair_accuracy": {"value": None, "ci95": None},
        "regret": {"value": 2.7531, "ci95": (2.4102, 3.0909)},
    }
    for name in (HOSTILE, "chance")
}

GAIN = {"model": HOSTILE, "minus": "chance", "pair_accuracy": {"difference": 0.0762, "ci95": (0.0551, 0.1003)}}


def _model(*, network: bool) -> dict[str, Any]:
    seeds = 2 if network else 1
    ends = {"auc": (0.75, 0.79), "logloss": (0.49, 0.53)}
    bins = [{"predicted": 0.1, "observed": 0.12, "rows": 10}, {"predicted": 0.8, "observed": 0.7, "rows": 10}]
    model = {
        "metrics": NUMBERS,
        "deviation": None if seeds == 1 else {**dict.fromkeys(NUMBERS, 0.0042), "gauc": None},
        "seeds": [{"seed": seed, "metrics": NUMBERS} for seed in range(seeds)],
        "ci95": {"users": ends, "rows": ends},
        "calibration": bins,
    }
    rung = {"auc": 0.67, "logloss": 0.5, "ece": 1.01}
    curve = [{"epoch": n, "train_loss": 0.6 / n, "valid_auc": 0.7 + n / 100} for n in (1, 2)]
    more = {"curve": curve, "degradation": {"item unknown": rung}, "choice": [f"kept {HOSTILE}"]}
    return model | (more if network else {})


def _difference(model: str, minus: str, *, by_seed: bool) -> dict[str, Any]:
    sure = {"ci95": (-0.0011, 0.0333), "p": 0.125}
    metric: dict[str, Any] = {"difference": 0.0222, "users": sure, "rows": {"ci95": None, "p": None}}
    if by_seed:
        metric |= {"by_seed": {"differences": [0.02, 0.03], "deviation": 0.0077}, "users_and_seeds": sure}
    return {"model": model, "minus": minus, "auc": metric, "logloss": metric, "gauc": None}


def sample_results(*, only_baseline_beside: bool = False) -> dict[str, Any]:
    names = [HOSTILE, "counts"] if only_baseline_beside else [HOSTILE, "without", "counts"]
    models = {name: _model(network=name != "counts") for name in names}
    whole = {
        "by": "topic",
        "value": HOSTILE,
        "rows": 60,
        "clicks": 7,
        "models": {name: {"auc": 0.6543} for name in names},
        "auc_gain_of_first": {name: {"difference": 0.01, "ci95": (0.0, 0.02), "p": 0.5} for name in names[1:]},
    }
    small = {"by": "topic", "value": "(missing)", "rows": 3, "clicks": 0, "unmeasured": "fewer than 50 rows"}
    return {
        "rows": {"window": 50, "train": 30, "valid": 10, "test": 1234},
        "resamples": 1000,
        "models": models,
        "differences": [_difference(*pair, by_seed="counts" not in pair) for pair in combinations(names, 2)],
        "slices": [whole, small],
        "objections": [f"{HOSTILE} predicts worse than a constant"],
        "verdict": None if only_baseline_beside else {**VERDICT, "sure": False},
        "within": None if only_baseline_beside else {**PAIRS, "models": WITHIN, "differences": [GAIN]},
    }


def sample_page(path: Path, results: dict[str, Any]) -> str:
    write_report(path, results)
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return sample_page(tmp_path_factory.mktemp("report") / "report.html", sample_results())


def test_names_are_escaped(page: str) -> None:
    assert "<script" not in page
    assert ESCAPED in page
    assert page.count("alert(") == page.count("alert(&#39;")


def test_page_has_every_figure(page: str) -> None:
    for figure in ("0.7712", "± 0.0042", "1,234 test rows", "80 rows trained", "2 seeds"):
        assert figure in page, figure
    for figure in ("+0.0222", "-0.0011 to +0.0333", "± 0.0077 over seeds", "0.125", "0.6543"):
        assert figure in page, figure
    for figure in ("295 users", "2,871 pairs", "555 of them significant", "0.5551 to 0.6003", "2.7531"):
        assert figure in page, figure
    for figure in ("fewer than 50 rows", "(missing)", ">–<"):
        assert figure in page, figure
    assert "no sure gain, +0.0031 AUC with live counts (95 % over users: -0.0021 to +0.0088): serve without" in page
    assert "use counts: without against the best other, trees on counts: logloss +0.0222" in page
    assert "Do not trust these figures yet" in page


def test_page_is_self_contained(page: str) -> None:
    assert "None" not in page
    assert page.count("<svg") == page.count("</svg>") == 3
    for source in ("src=", "@import", "url(http", "<link", "<image"):
        assert source not in page
    assert page.rstrip().endswith("</html>")


def test_one_model_is_enough(tmp_path: Path) -> None:
    assert "counts" in sample_page(tmp_path / "report.html", sample_results(only_baseline_beside=True))


def test_scale_contains_all_values_with_a_margin() -> None:
    scale = Scale.of([0.7, None, 0.8])
    assert 0 < scale.at(0.7) < scale.at(0.75) < scale.at(0.8) < 100
    assert scale.at(0.75) == pytest.approx(50, abs=0.01)
    assert Scale.of([0.5]).at(0.5) == pytest.approx(50)
    assert (scale.at(-1), scale.at(2)) == (0, 100)
    assert Scale.of([]).high > Scale.of([]).low


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
    assert COMPARED.clicks.tolist() == CLICKS.tolist()
    assert COMPARED.shown.tolist() == [100.0] * 5
    # Arms of equal rates make no pair.
    assert list(zip(COMPARED.left.tolist(), COMPARED.right.tolist(), strict=True)) == [(1, 0), (2, 0), (1, 2)]
    assert COMPARED.z == pytest.approx(
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
