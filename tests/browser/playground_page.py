"""The playground in a browser, as somebody uses it; and what it said to the console and asked of others meanwhile."""

from playwright.sync_api import ConsoleMessage, Locator, Page, Request, expect


class PlaygroundPage:
    """A tab on a service's playground."""

    def __init__(self, tab: Page, url: str) -> None:
        self.tab, self.url = tab, url
        self.said: list[str] = []
        self.asked: list[str] = []
        tab.on("console", self._hear)
        tab.on("pageerror", lambda error: self.said.append(str(error)))
        tab.on("request", self._see)

    def open(self) -> None:
        """Goes there, and waits for the first explained ranking."""
        self.tab.goto(f"{self.url}/playground")
        self.settle()

    def settle(self) -> None:
        """Waits until what is shown is of the latest request, explanation and all."""
        expect(self.tab.locator("#main:not(.stale) .strip").first).to_be_visible()

    def check_silence(self) -> None:
        """Nothing was said to the console, and nobody but the service was asked."""
        assert self.said == []
        assert [url for url in self.asked if not url.startswith(f"{self.url}/")] == []

    @property
    def rows(self) -> Locator:
        """The ads as ranked."""
        return self.tab.locator("#lists .ads:not(.other) li")

    @property
    def other_rows(self) -> Locator:
        """The ads as ranked by the model to compare with."""
        return self.tab.locator("#lists .ads.other li")

    def row(self, one: str) -> Locator:
        """One ad's, by its id."""
        return self.tab.locator(f"#lists .ads:not(.other) li[data-id='{one}']")

    @property
    def offers(self) -> Locator:
        """What such a field has found."""
        return self.tab.locator("[role=listbox]:not([hidden]) [role=option]")

    def find(self, name: str) -> Locator:
        """The field in which something is looked for."""
        return self.tab.get_by_role("combobox", name=name)

    def order(self) -> list[str]:
        """The ids as ranked."""
        return ids_of(self.rows)

    def bid(self, one: str, value: str) -> None:
        """Types a bid for an ad."""
        self.row(one).locator("input").fill(value)

    def figures(self, one: str) -> str:
        """An ad's pCTR and eCPM as they are shown."""
        return self.row(one).locator(".figures").inner_text()

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.said.append(message.text)

    def _see(self, request: Request) -> None:
        self.asked.append(request.url)


def ids_of(rows: Locator) -> list[str]:
    """The ids of a list's ads, in their order."""
    found: list[str] = rows.evaluate_all("rows => rows.map((row) => row.dataset.id)")
    return found
