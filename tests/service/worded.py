"""Bundles with words for people, some of which would do harm as markup, and a service that shows them."""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from msd.contract.bundle import (
    ITEM_WORDS,
    MARKER,
    USER_WORDS,
    Bundle,
    file_entries,
    open_bundle,
    write_manifest,
)
from tests.bundles.factory import ITEMS, build_bundle
from tests.bundles.ranker_graph import Recipe
from tests.service.live import LiveService, live_service

HOSTILE = "<img src=x onerror=\"document.title='harmed'\"><script>document.title='harmed'</script>"


def with_words(folder: Path) -> Bundle:
    """A bundle with an encoder, whose items and some users have words."""
    bundle = build_bundle(folder, Recipe(encoder=True))
    items: list[dict[str, Any]] = [{"id": f"i{place}", "title": f"Tent number {place}"} for place in range(ITEMS)]
    items[1] |= {"title": "Städte am Meer", "explicit": "Two cities.", "implicit": "For walkers.", "tags": ["sea"]}
    items[2] |= {"title": HOSTILE, "explicit": HOSTILE, "implicit": HOSTILE, "tags": [HOSTILE]}
    items[299]["title"] = None  # as where a dataset has none
    users: list[dict[str, Any]] = [
        {"id": "u1", "explicit": "Clicks on tents.", "implicit": HOSTILE, "tags": []},
        {"id": "u2"},
    ]
    return add_words(bundle, items, users)


def add_words(bundle: Bundle, items: list[dict[str, Any]], users: list[dict[str, Any]]) -> Bundle:
    """The same bundle with these words of a teacher for people."""
    for name, lines in ((ITEM_WORDS, items), (USER_WORDS, users)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        bundle.path(name).write_text(text, "utf-8")
    bundle.path(MARKER).unlink(missing_ok=True)
    manifest = bundle.manifest
    provenance = {**manifest.provenance, "teacher": {"name": "tests"}}
    changes = {"files": file_entries(bundle.folder), "provenance": provenance}
    write_manifest(bundle.folder, manifest.model_copy(update=changes))
    return open_bundle(bundle.folder)


def compared_service(
    bundle: Bundle, without: Bundle, folder: Path, **more: object
) -> AbstractContextManager[LiveService]:
    """A service with a playground that compares the bundle with another, and encodes texts at once."""
    settings: dict[str, Any] = {
        "playground": True,
        "playground_without": without.folder,
        "encoder": "on",
        "ENCODER_WAIT_S": 60,
        "encoder_per_s": 1_000,
        "deadline_ms": 60_000,
        **more,
    }
    return live_service(bundle.folder, folder, **settings)
