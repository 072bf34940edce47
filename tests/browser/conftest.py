"""One Chromium and one service for all tests of the playground; each test has a page of its own, which has to be silent
and may ask nobody but the service.
"""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from msd.contract.bundle import Bundle
from tests.browser.playground_page import NoChromium, PlaygroundPage, chromium
from tests.bundles.factory import build_bundle
from tests.bundles.ranker_graph import Recipe
from tests.service.live import LiveService, wait_until
from tests.service.worded import compared_service, with_words

PATIENCE_MS = 120_000
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    try:
        with chromium() as running:
            yield running
    except NoChromium as error:
        pytest.exit(str(error), returncode=1)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    """The one that is served, and the one to compare with."""
    folder = tmp_path_factory.mktemp("bundles")
    return with_words(folder / "with"), build_bundle(folder / "without", Recipe(seed=1))


@pytest.fixture(scope="session")
def playground(bundles: tuple[Bundle, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    with compared_service(*bundles, tmp_path_factory.mktemp("service")) as running:
        wait_until(lambda: any(line["event"] == "encoder_ready" for line in running.log()))
        yield running


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    """An empty page with nothing remembered."""
    context = browser.new_context(viewport={"width": 1_440, "height": 1_000}, locale="en-GB", timezone_id="Asia/Tokyo")
    context.set_default_timeout(PATIENCE_MS)
    yield context.new_page()
    context.close()


@pytest.fixture
def page(tab: Page, playground: LiveService) -> Iterator[PlaygroundPage]:
    """The playground with its first ranking, explained."""
    shown = PlaygroundPage(tab, playground.url)
    shown.open()
    yield shown
    shown.check_silence()
