"""The playground in a browser, as people use it."""

from playwright.sync_api import Locator, expect

from tests.browser.watched_tab import WatchedTab


class PlaygroundPage(WatchedTab):
    """A tab on a service's playground."""

    def open(self) -> None:
        """Goes there, and waits for the first explained ranking."""
        self.tab.goto(f"{self.url}/playground")
        self.settle()

    def settle(self) -> None:
        """Waits until what is shown is of the latest request, explanation and all."""
        expect(self.tab.locator("#main:not(.stale) .strip").first).to_be_visible()

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
        return self.tab.locator("[role=listbox]:not([hidden]) [role=option]")

    def find(self, name: str) -> Locator:
        return self.tab.get_by_role("combobox", name=name)

    def order(self) -> list[str]:
        return ids_of(self.rows)

    def bid(self, one: str, value: str) -> None:
        self.row(one).locator("input").fill(value)

    def figures(self, one: str) -> str:
        return self.row(one).locator(".figures").inner_text()


def ids_of(rows: Locator) -> list[str]:
    found: list[str] = rows.evaluate_all("rows => rows.map((row) => row.dataset.id)")
    return found
