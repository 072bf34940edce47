"""Every page fits a phone, writes nothing to the console, and requests nothing from other machines."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from loadtest.session.page import load_page
from tests.browser.conftest import PATIENCE_MS
from tests.browser.playground_page import WatchedTab
from tests.demo import test_report
from tests.docs.site import build_site
from tests.ranker import test_evaluation_report
from tests.service.live import LiveService

pytestmark = pytest.mark.browser


@pytest.fixture
def phone(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 390, "height": 844}, locale="en-GB")
    context.set_default_timeout(PATIENCE_MS)
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_site(tmp_path_factory.mktemp("site"))


def check(phone: Page, file: Path) -> None:
    watched = WatchedTab(phone, "file://")
    phone.goto(file.as_uri())
    watched.check_width()
    watched.check_silence()


@pytest.mark.parametrize(("path", "selector"), [("/docs", ".opblock")])
def test_pages_of_the_service_fit(phone: Page, playground: LiveService, path: str, selector: str) -> None:
    watched = WatchedTab(phone, playground.url)
    phone.goto(playground.url + path)
    expect(phone.locator(selector).first).to_be_visible()
    expect(phone.locator(".models.is-open")).to_have_count(0)
    watched.check_width()
    watched.check_silence()


def test_documentation_fits(phone: Page, site: Path) -> None:
    watched = WatchedTab(phone, "file://")
    for file in sorted(site.glob("*.html")):
        if file.name != "404.html":
            phone.goto(file.as_uri())
            watched.check_width()
    watched.check_silence()


def test_documentation_is_searched_without_a_server(tab: Page, site: Path) -> None:
    watched = WatchedTab(tab, "file://")
    tab.goto((site / "index.html").as_uri())
    tab.get_by_role("textbox", name="Search").click()
    tab.keyboard.type("isotonic")
    found = tab.locator(".md-search-result__item a").first
    expect(found).to_be_visible()
    found.click()
    expect(tab.locator("article").get_by_text("isotonic").first).to_be_visible()
    watched.check_silence()


def test_demo_report_fits(phone: Page, tmp_path: Path) -> None:
    test_report.sample_page(tmp_path / "report.html")

    check(phone, tmp_path / "report.html")


def test_evaluation_report_fits(phone: Page, tmp_path: Path) -> None:
    test_evaluation_report.sample_page(tmp_path / "report.html", test_evaluation_report.sample_results())

    check(phone, tmp_path / "report.html")


def test_load_page_fits(phone: Page, tmp_path: Path) -> None:
    (tmp_path / "load.html").write_text(load_page(session(12_345.6), session(9_876.5)), "utf-8")

    check(phone, tmp_path / "load.html")


def session(capacity: float) -> dict[str, Any]:
    figures = {"p50_ms": 13.0, "p99_ms": 1_234.5, "p99.9_ms": 2_345.6, "statuses": {"200": 123_456, "429": 6_789}}
    return {
        "url": "http://127.0.0.1:8080",
        "at": "2026-11-27T12:00:00Z",
        "seconds": 60.0,
        "model": {"model_version": "ml-100k-9ca4cf6d", "precision": "fp32", "runtime": "onnxruntime", "store": "file"},
        "traffic": {"candidates": "200", "cold": 0.1, "deadline_ms": 100},
        "capacity": capacity,
        "rest": {"p50_ms": 3.0, "p99_ms": 9.0, "stages_ms": {"parse": 0.2, "rows": 0.5, "run": 2.0, "wire": 0.3}},
        "curve": [figures | {"load": load, "rate": load * capacity} for load in (0.2, 0.8, 1.5)],
        "bursts": figures | {"rate": capacity / 2},
    }
