"""Takes pictures of what people see in a browser: `python -m tests.browser.screenshots BUNDLE OUT`.

Those of the service on BUNDLE (playground, API) and of the documentation, at two widths; and of the reports that
`make demo` leaves beside the bundle, as it does the one that was trained without the LLM's knowledge.
"""

import io
import re
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect

from msd.contract.errors import MsdError
from msd.contract.files import write_bytes_atomic
from tests.browser.playground_page import PlaygroundPage, WatchedTab, chromium
from tests.docs.site import build_site
from tests.service.live import live_service, wait_until

WIDTHS = (1_440, 390)
_HEIGHT, _ADS = 1_190, 11
_SITE = ("index", "start", "own-data", "api", "design")
_REPORTS = {"demo": "report.html", "evaluation": "evaluation/report.html"}
_COLOURS = 255
_PATIENCE_MS = 30_000
_OWN = "A stubborn detective and a runaway android fall in love while a city drowns in neon rain"


def main(bundle: Path, out: Path) -> None:
    """Serves both bundles, builds the site, and writes PNGs."""
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        site = build_site(Path(folder) / "site")
        addresses = {f"site-{name}": (site / f"{name}.html").as_uri() for name in _SITE}
        addresses |= {f"report-{name}": (bundle.parent / path).resolve().as_uri() for name, path in _REPORTS.items()}
        with live_service(
            bundle,
            Path(folder),
            playground=True,
            playground_without=bundle.with_name(f"{bundle.name}-without-semantics"),
            ENCODER_WAIT_S=2,
            deadline_ms=5_000,
        ) as service:
            wait_until(lambda: not service.ready()["loading"])
            for width in WIDTHS:
                api = _opened(browser, width, service.url, f"{service.url}/docs")
                expect(api.tab.locator(".opblock").first).to_be_visible(timeout=_PATIENCE_MS)
                _take(api, out / f"api-{width}.png")
                page = PlaygroundPage(_new_tab(browser, width), service.url)
                _try_out(page)
                _take(page, out / f"playground-{width}.png")
        for width in WIDTHS:
            for name, address in addresses.items():
                _take(_opened(browser, width, "file://", address), out / f"{name}-{width}.png")


def _new_tab(browser: Browser, width: int) -> Page:
    return browser.new_page(viewport={"width": width, "height": _HEIGHT}, locale="en-GB")


def _opened(browser: Browser, width: int, url: str, address: str) -> WatchedTab:
    watched = WatchedTab(_new_tab(browser, width), url)
    watched.tab.goto(address, wait_until="networkidle")
    return watched


def _take(watched: WatchedTab, picture: Path) -> None:
    """Writes the whole page in as few colours as do, and closes it."""
    watched.check_silence()
    watched.check_width()
    taken, out = Image.open(io.BytesIO(watched.tab.screenshot(full_page=True))), io.BytesIO()
    few = taken.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    few.save(out, "PNG", optimize=True)
    picture.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(picture, out.getvalue())
    print(f"{picture}: {picture.stat().st_size} bytes")  # noqa: T201
    watched.tab.close()


def _try_out(page: PlaygroundPage) -> None:
    """An ad of one's own among films, seen with and without the LLM's knowledge."""
    page.open()
    for _ in range(page.rows.count() - _ADS + 1):
        page.rows.last.get_by_role("button", name="Remove").click()
        page.settle()
    page.tab.get_by_role("button", name="Write an ad of your own").click()
    own = page.tab.locator("#own")
    own.get_by_label("title", exact=True).fill(_OWN)
    own.get_by_label("release year").fill("1997")
    for genre in ("Sci-Fi", "Romance"):
        own.get_by_label(genre).check()
    # A bundle whose texts gain nothing reliable is served without its encoder.
    expect(page.row("your-ad-1").get_by_text(re.compile("read from its words|by its features"))).to_be_visible()
    page.tab.get_by_role("switch").check()
    # After a few times everything is warm, as it is in service.
    for bid in ("0.6", "0.55", "0.5", "0.55"):
        page.bid(page.order()[0], bid)
        page.tab.wait_for_timeout(700)
        page.settle()
    page.row("your-ad-1").locator(".title").click()
    page.rows.first.locator(".title").click()
    page.tab.evaluate("document.activeElement.blur()")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except MsdError as error:
        sys.exit(f"error: {error}")
