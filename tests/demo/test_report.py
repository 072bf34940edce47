"""The demo's page shows its figures and curves, and escapes texts."""

from pathlib import Path
from typing import Any

import pytest

from msd.demo.command import WARNING
from msd.demo.report import write_report
from msd.demo.showcase import RankedCandidate, Showcase

HOSTILE = "<script>alert('x')</script> & \"co\""
ESCAPED = "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &#34;co&#34;"
METRICS = {"auc": 0.7712, "logloss": 0.5, "ece": 0.0123}
SUMMARY: dict[str, Any] = {
    "auc": 0.7712,
    "auc_without_semantics": 0.7654,
    "ece": 0.0123,
    "http_vs_torch_max_abs_diff": 1.2e-7,
    "p50_ms": 2.5,
    "p99_ms": 4.75,
    "bench_candidates": 200,
    "store": "redis",
    "cold_ad": {
        "rows": 1043,
        "items": 167,
        "auc": {"row": 0.78, "taught": 0.7711, "encoded": 0.7412, "category_prior": 0.7423},
        "gain": -0.0011,
        "ci95": [-0.01, 0.008],
        "test": "made up",
    },
    "steps": {"data": 1.5, HOSTILE: 2.0},
}


def _model(*, curve: bool) -> dict[str, Any]:
    bins = [{"predicted": at, "observed": at + 0.02, "impressions": 10.0} for at in (0.1, 0.8)]
    points = [{"epoch": n, "train_loss": 0.6 / n, "valid_auc": 0.7 + n / 100} for n in (1, 2)]
    return {"metrics": METRICS, "calibration": bins} | ({"curve": points} if curve else {})


def sample_page(path: Path, warning: str = "") -> str:
    models = {
        "with-semantics": _model(curve=True),
        "without-semantics": _model(curve=True),
        "counts": _model(curve=False),
    }
    evaluation = {"rows": {"window": 50, "train": 30, "valid": 10, "test": 1234}, "models": models}
    place = RankedCandidate(1, "i1", HOSTILE, 0.91234, 7, 0.5, HOSTILE, "clicked")
    write_report(path, {**SUMMARY, "warning": warning}, evaluation, Showcase("u<1>", {"user_id": "u<1>"}, 200, [place]))
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return sample_page(tmp_path_factory.mktemp("report") / "report.html")


def test_page_shows_figures_and_drawings_without_a_network_and_escapes_texts(page: str) -> None:
    assert "<script" not in page
    assert page.count(ESCAPED) == 3
    assert "What user u&lt;1&gt; would be shown" in page
    for figure in ("0.7712", "0.7654", "1.2e-07", "2.5 / 4.8 ms", "redis store", "80 rows train", "1,234 test"):
        assert figure in page
    assert "without semantics" in page
    for figure in ("1043 test rows of 167 items", "0.7412", "0.7423", "0.7711"):
        assert figure in page
    assert "0.912" in page
    assert "7 (0.500)" in page
    assert page.count("<svg") == page.count("</svg>") == 4
    for source in ("src=", "@import", "url(http", "<link", "<image"):
        assert source not in page
    assert page.rstrip().endswith("</html>")


def test_equal_figures_give_equal_bytes_and_quick_ones_a_warning(page: str, tmp_path: Path) -> None:
    assert sample_page(tmp_path / "again.html") == page
    assert WARNING not in page
    assert WARNING in sample_page(tmp_path / "quick.html", WARNING)
