"""The demo's page shows its figures and steps, and escapes texts."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from msd.dataset.load import Dataset
from msd.demo.movielens import WARNING
from msd.demo.report import write_report
from msd.demo.service import DemoError
from msd.demo.showcase import RankedCandidate, Showcase, print_showcase, show_user
from tests.bundles.factory import AT, ITEMS, build_bundle
from tests.bundles.ranker_graph import Recipe
from tests.ranker.made import Row, dataset_of
from tests.service.live import LiveService, live_service

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


def sample_page(path: Path, warning: str = "") -> str:
    models = {name: {"metrics": METRICS} for name in ("with-semantics", "without-semantics", "counts")}
    evaluation = {"rows": {"window": 50, "train": 30, "valid": 10, "test": 1234}, "models": models}
    place = RankedCandidate(1, "i1", HOSTILE, 0.91234, 7, 0.5, HOSTILE, "clicked")
    write_report(path, {**SUMMARY, "warning": warning}, evaluation, Showcase("u<1>", {"user_id": "u<1>"}, 200, [place]))
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return sample_page(tmp_path_factory.mktemp("report") / "report.html")


def test_page_shows_figures_and_steps_without_a_network_and_escapes_texts(page: str) -> None:
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
    for source in ("src=", "@import", "url(http", "<link", "<image"):
        assert source not in page
    assert page.rstrip().endswith("</html>")


def test_equal_figures_give_equal_bytes_and_quick_ones_a_warning(page: str, tmp_path: Path) -> None:
    assert sample_page(tmp_path / "again.html") == page
    assert WARNING not in page
    assert WARNING in sample_page(tmp_path / "quick.html", WARNING)


Services = tuple[LiveService, LiveService]


def _rows(user: str, events: int, label_every: int) -> list[Row]:
    return [(user, f"i{number}", int(AT) + number, int(number % label_every == 0)) for number in range(events)]


def _dataset(*rows: Row, context: str = "hour") -> Dataset:
    items = {"item_id": [f"i{number}" for number in range(ITEMS)]}
    values = [str(number % 24) for number in range(len(rows))]
    feature = {"name": context, "side": "context", "kind": "categorical"}
    return dataset_of(rows, events={context: values}, items=items, features=[feature])


# u1 has too few test rows, u2 clicks too rarely, u3 and u4 have 16 test rows of which 8 are clicks.
DATASET = _dataset(*_rows("u1", 140, 2), *_rows("u2", 200, 40), *_rows("u3", 160, 2), *_rows("u4", 160, 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles, the first with words for people."""
    folder = tmp_path_factory.mktemp("showcase")
    build_bundle(folder / "with")
    build_bundle(folder / "without", Recipe(seed=1))
    titles = [f"Title {number}" if number % 2 else None for number in range(ITEMS)]
    words = [{"id": f"i{n}", "title": title, "implicit": "For some. " * 20} for n, title in enumerate(titles)]
    (folder / "with" / "items.meta.jsonl").write_text("\n".join(map(json.dumps, words)))
    return folder


@pytest.fixture(scope="module")
def services(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with (
        live_service(folder / "with", tmp_path_factory.mktemp("with")) as first,
        live_service(folder / "without", tmp_path_factory.mktemp("without")) as second,
    ):
        yield first, second


@pytest.fixture(scope="module")
def shown(folder: Path, services: Services) -> Showcase:
    return show_user(DATASET, folder / "with", services[0].url, services[1].url)


def test_first_user_with_enough_of_both_labels_is_shown_with_unseen_items(shown: Showcase) -> None:
    assert shown.user_id == "u3"
    ids = shown.request["candidates"]["id"]
    assert shown.candidates == len(ids) == len(set(ids)) == 156
    assert ids[:16] == [f"i{number}" for number in range(144, 160)]
    # None from before the test part, which a model would know as the user's.
    assert not set(ids[16:]) & {f"i{number}" for number in range(160)}
    assert shown.request["at"] == AT + 144


def test_ten_best_are_shown_with_both_ranks(shown: Showcase, services: Services) -> None:
    assert [place.rank for place in shown.top] == list(range(1, 11))
    pctrs = [place.pctr for place in shown.top]
    assert pctrs == sorted(pctrs, reverse=True)
    other = services[1].score({**shown.request, "top_k": None}).json()["candidates"]
    scores = dict(zip(other["id"], other["pctr"], strict=True))
    for place in shown.top:
        assert place.pctr_without == pytest.approx(scores[place.item_id], abs=1e-6)
        better = sum(score > place.pctr_without + 1e-6 for score in scores.values())
        assert place.rank_without > better
        number = int(place.item_id[1:])
        assert place.title == (f"Title {number}" if number % 2 else place.item_id)
        assert place.did == ("" if number >= 160 else "not clicked" if number % 2 else "clicked")


def test_table_shortens_the_teachers_words(shown: Showcase) -> None:
    out = io.StringIO()
    print_showcase(Console(file=out, width=250), shown)
    table = out.getvalue()
    assert "User u3: the best 10 of 156 candidates" in table
    assert table.count("For some. For some. ") >= 10
    assert table.count("…") == 10


def test_missing_user_and_error_of_the_service_are_shown(folder: Path, services: Services) -> None:
    few = _dataset(*_rows("u1", 140, 2))
    with pytest.raises(DemoError, match="no user has 15 test rows with 5 of each label"):
        show_user(few, folder / "with", "http://127.0.0.1:9", "http://127.0.0.1:9")
    other = _dataset(*_rows("u3", 160, 2), context="weather")
    with pytest.raises(DemoError, match=rf"{services[0].url} answered 422: .*weather"):
        show_user(other, folder / "with", services[0].url, services[1].url)
