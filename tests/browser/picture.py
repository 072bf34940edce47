"""Takes the playground's picture for the documentation: `python -m tests.browser.picture BUNDLE PICTURE`.

Beside the bundle lies the one that was trained without the LLM's knowledge, as `make demo` leaves them.
"""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect

from msd.contract.errors import MsdError
from msd.contract.files import write_bytes_atomic
from tests.browser.chromium import chromium
from tests.browser.playground_page import PlaygroundPage
from tests.service.live import live_service, wait_until

_WIDTH, _HEIGHT, _ADS = 1_440, 1_190, 11
_COLOURS = 255
_OWN = "A stubborn detective and a runaway android fall in love while a city drowns in neon rain"


def main(bundle: Path, picture: Path) -> None:
    """Serves both bundles, tries them out, and writes the PNG."""
    without = bundle.with_name(f"{bundle.name}-without-semantics")
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        with live_service(
            bundle, Path(folder), playground=True, playground_without=without, encoder_wait_ms=2_000, deadline_ms=5_000
        ) as service:
            wait_until(lambda: any(line["event"] == "encoder_ready" for line in service.log()))
            tab = browser.new_page(viewport={"width": _WIDTH, "height": _HEIGHT}, locale="en-GB")
            _try_out(tab, service.url)
            taken = tab.screenshot(full_page=True)
    write_bytes_atomic(picture, _small(taken))
    print(f"{picture}: {picture.stat().st_size} bytes")  # noqa: T201


def _try_out(tab: Page, url: str) -> None:
    """An ad of one's own among films, seen with and without the LLM's knowledge."""
    page = PlaygroundPage(tab, url)
    page.open()
    for _ in range(page.rows.count() - _ADS + 1):
        page.rows.last.get_by_role("button", name="Remove").click()
        page.settle()
    tab.get_by_role("button", name="Write an ad of your own").click()
    own = tab.locator("#own")
    own.get_by_label("title", exact=True).fill(_OWN)
    own.get_by_label("release year").fill("1997")
    for genre in ("Sci-Fi", "Romance"):
        own.get_by_label(genre).check()
    expect(page.row("your-ad-1").get_by_text("read from its words")).to_be_visible()
    tab.get_by_role("switch").check()
    # After a few times everything is warm, as it is in service.
    for bid in ("0.6", "0.55", "0.5", "0.55"):
        page.bid(page.order()[0], bid)
        tab.wait_for_timeout(700)
        page.settle()
    page.row("your-ad-1").locator(".title").click()
    page.rows.first.locator(".title").click()
    tab.evaluate("document.activeElement.blur()")
    page.check_silence()


def _small(png: bytes) -> bytes:
    """In as few colours as do."""
    out = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(
        out, "PNG", optimize=True
    )
    return out.getvalue()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except MsdError as error:
        sys.exit(f"error: {error}")
