"""The page shows every figure, needs no network, and whatever people wrote stays text."""

from pathlib import Path
from typing import Any

import pytest

from msd.evaluation.evaluation_report import Scale, write_report

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
    rung = [{"share": share, "auc": 0.77 - share / 10, "logloss": 0.5, "ece": 0.01 + share} for share in (0.0, 1.0)]
    curve = [{"epoch": n, "train_loss": 0.6 / n, "valid_auc": 0.7 + n / 100} for n in (1, 2)]
    ways = {"platt": {"ece": 0.0456, "logloss": 0.5}, "isotonic": {"ece": 0.0345, "logloss": 0.5}}
    more = {"curve": curve, "calibrations": ways, "degradation": {"item unknown": rung}, "choice": [f"kept {HOSTILE}"]}
    return model | (more if network else {})


def _difference(model: str, minus: str, *, by_seed: bool) -> dict[str, Any]:
    sure = {"ci95": (-0.0011, 0.0333), "p": 0.125}
    metric: dict[str, Any] = {"difference": 0.0222, "users": sure, "rows": {"ci95": None, "p": None}}
    if by_seed:
        metric |= {"by_seed": {"differences": [0.02, 0.03], "deviation": 0.0077}, "users_and_seeds": sure}
    return {"model": model, "minus": minus, "auc": metric, "logloss": metric}


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
        "differences": [_difference(HOSTILE, name, by_seed=name != "counts") for name in names[1:]],
        "slices": [whole, small],
        "verdict": None if only_baseline_beside else {**VERDICT, "sure": False},
        "within": None if only_baseline_beside else {**PAIRS, "models": WITHIN},
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
    for figure in ("0.7712", "± 0.0042", "1,234 test rows", "80 rows trained", "0.0345", "2 seeds"):
        assert figure in page, figure
    for figure in ("+0.0222", "-0.0011 to +0.0333", "± 0.0077 over seeds", "0.125", "0.6543"):
        assert figure in page, figure
    for figure in ("295 users", "2,871 pairs", "555 of them significant", "0.5551 to 0.6003", "2.7531"):
        assert figure in page, figure
    for figure in ("fewer than 50 rows", "(missing)", ">–<"):
        assert figure in page, figure
    assert "no sure gain, +0.0031 AUC with live counts (95 % over users: -0.0021 to +0.0088): serve without" in page


def test_page_is_self_contained(page: str) -> None:
    assert "None" not in page
    assert page.count("<svg") == page.count("</svg>") == 6
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
