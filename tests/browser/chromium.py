"""Finds the machine's Chromium and starts it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from msd.contract.errors import MsdError

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


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
