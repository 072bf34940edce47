"""A tab, with what its pages said to the console, what they asked of others, and what reaches past its edge."""

from playwright.sync_api import ConsoleMessage, Page, Request

_BEYOND = """() => {
  const { scrollWidth, clientWidth } = document.documentElement;
  if (scrollWidth <= clientWidth) return [];
  const isBeyond = (one) => one.getBoundingClientRect().right > clientWidth + 1;
  const beyond = [...document.body.querySelectorAll("*")].filter(isBeyond);
  return [`${scrollWidth} > ${clientWidth}`, ...beyond.map((one) => one.outerHTML.slice(0, 160))];
}"""


class WatchedTab:
    """A tab whose pages all come from one place: a service's address, or `file://`."""

    def __init__(self, tab: Page, url: str) -> None:
        self.tab, self.url = tab, url
        self.said: list[str] = []
        self.asked: list[str] = []
        tab.on("console", self._hear)
        tab.on("pageerror", lambda error: self.said.append(str(error)))
        tab.on("request", self._see)

    def check_silence(self) -> None:
        """Nothing was said to the console, and nothing was asked of other places."""
        assert self.said == []
        assert [url for url in self.asked if not url.startswith((f"{self.url}/", "data:"))] == []

    def check_width(self) -> None:
        """The page does not have to be scrolled sideways."""
        assert self.tab.evaluate(_BEYOND) == []

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.said.append(message.text)

    def _see(self, request: Request) -> None:
        self.asked.append(request.url)
