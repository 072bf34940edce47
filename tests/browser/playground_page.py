"""The machine's Chromium, and its tabs, with what their pages write to the console and request."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, expect, sync_playwright

from msd.contract.errors import MsdError

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_BEYOND = """() => {
  const { scrollWidth, clientWidth } = document.documentElement;
  if (scrollWidth <= clientWidth) return [];
  const isBeyond = (one) => one.getBoundingClientRect().right > clientWidth + 1;
  const beyond = [...document.body.querySelectorAll("*")].filter(isBeyond);
  return [`${scrollWidth} > ${clientWidth}`, ...beyond.map((one) => one.outerHTML.slice(0, 160))];
}"""


class NoChromium(MsdError):
    """There is none to be found."""


def chromium_path() -> str:
    """Where it is. Raises NoChromium."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        raise NoChromium(
            f"no Chromium here: none of {', '.join(_NAMES)} is on the path. Install one (Debian: apt install chromium)"
            " or say where it is (CHROMIUM=/path/to/chrome make browser)"
        )
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running one, without a window."""
    path = chromium_path()
    with sync_playwright() as playwright:
        # Its sandbox needs rights that containers do not have; it is shown our own page alone.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class WatchedTab:
    """A tab whose pages all come from one place: a service's address, or `file://`."""

    def __init__(self, tab: Page, url: str) -> None:
        self.tab, self.url = tab, url
        self.console: list[str] = []
        self.requested: list[str] = []
        tab.on("console", self._hear)
        tab.on("pageerror", lambda error: self.console.append(str(error)))
        tab.on("request", self._see)

    def check_silence(self) -> None:
        """Nothing was said to the console, and nothing was asked of other places."""
        assert self.console == []
        assert [url for url in self.requested if not url.startswith((f"{self.url}/", "data:"))] == []

    def check_width(self) -> None:
        """The page does not have to be scrolled sideways."""
        assert self.tab.evaluate(_BEYOND) == []

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.console.append(message.text)

    def _see(self, request: Request) -> None:
        self.requested.append(request.url)


class PlaygroundPage(WatchedTab):
    """A tab on a service's playground."""

    def open(self) -> None:
        """Goes there, and waits for the first explained ranking."""
        self.tab.goto(f"{self.url}/playground")
        self.settle()

    def settle(self) -> None:
        """Waits until what is shown is of the latest request, explanation and all."""
        expect(self.tab.locator("#main:not(.stale) .strip").first).to_be_visible()

    @contextmanager
    def rescored(self) -> Iterator[None]:
        """Waits for the explained ranking that the block asks for; `settle` alone may see that of before."""
        with self.tab.expect_response(lambda reply: '"explain":true' in (reply.request.post_data or "")):
            yield
        self.settle()

    @property
    def rows(self) -> Locator:
        return self.tab.locator("#lists .ads:not(.other) li")

    @property
    def other_rows(self) -> Locator:
        return self.tab.locator("#lists .ads.other li")

    def row(self, one: str) -> Locator:
        return self.tab.locator(f"#lists .ads:not(.other) li[data-id='{one}']")

    @property
    def offers(self) -> Locator:
        return self.tab.locator(".picker:focus-within option")

    def find(self, name: str) -> Locator:
        return self.tab.get_by_role("combobox", name=name)

    def order(self) -> list[str]:
        return ids_of(self.rows)

    def bid(self, one: str, value: str) -> None:
        self.row(one).locator("input").fill(value)
        self.row(one).locator("input").press("Enter")

    def figures(self, one: str) -> str:
        return self.row(one).locator(".figures").inner_text()


def ids_of(rows: Locator) -> list[str]:
    found: list[str] = rows.evaluate_all("rows => rows.map((row) => row.dataset.id)")
    return found
