"""The documentation as a site, built as `make docs` does, and what its pages load."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

from tests.docs.pages import ROOT

_LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "embed": "src", "object": "data"}
_LOADED_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "preconnect", "dns-prefetch", "manifest"}
_IN_STYLES = re.compile(r"""(?:url\(|@import)\s*["']?([^"')]+)""")


def build_site(folder: Path) -> Path:
    """Build the site into a folder, strictly."""
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    # The theme's word on another project's next version is no warning of ours.
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    return folder


def loaded_by(file: Path) -> list[str]:
    """Return what a page or a stylesheet loads, as it is written there; links that only lead elsewhere are left out."""
    text = file.read_text("utf-8")
    if file.suffix == ".css":
        return _IN_STYLES.findall(text)
    finder = _Finder()
    finder.feed(text)
    return finder.found


class _Finder(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "link" and _LOADED_LINKS & set(given.get("rel", "").split()):
            self.found.append(given["href"])
        elif tag in _LOADED and _LOADED[tag] in given:
            self.found.append(given[_LOADED[tag]])
        self.found += _IN_STYLES.findall(given.get("style", ""))
