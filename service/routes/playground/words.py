"""Titles of a bundle's items or users, and what the teacher wrote about them, found by ID or title.

An index of the file stays in memory; the teacher's words are read on demand.
"""

import heapq
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

MOST = 100_000
"""Maximum lines that are read; later ones are ignored."""


class _Entry(NamedTuple):
    title: str
    folded: str
    offset: int


class Words:
    """The lines of `items.meta.jsonl` or `users.meta.jsonl`; none if the file does not exist."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, _Entry] = {}
        if not path.is_file():
            return
        with path.open("rb") as file:
            for _ in range(MOST):
                offset = file.tell()
                if not (line := file.readline()):
                    break
                if (document := _document(line)) is not None:
                    title = str(document.get("title") or document["id"])
                    self._entries[document["id"]] = _Entry(title, title.casefold(), offset)

    def __len__(self) -> int:
        return len(self._entries)

    def title(self, entity_id: str) -> str:
        entry = self._entries.get(entity_id)
        return entry.title if entry else entity_id

    def find(self, text: str, most: int) -> list[str]:
        """Return the best IDs: the ID itself, titles with this prefix, titles with all the words. An empty text finds
        all."""
        wanted = text.casefold().strip()
        words = wanted.split()
        found = (
            (entity_id != text, not entry.folded.startswith(wanted), place, entity_id)
            for place, (entity_id, entry) in enumerate(self._entries.items())
            if entity_id == text or all(word in entry.folded for word in words)
        )
        return [entity_id for *_, entity_id in heapq.nsmallest(most, found)]

    def of(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        entries = {item_id: entry for item_id in ids if (entry := self._entries.get(item_id))}
        found: dict[str, dict[str, Any]] = {}
        if entries:
            with self._path.open("rb") as file:
                for item_id, entry in entries.items():
                    file.seek(entry.offset)
                    found[item_id] = _document(file.readline()) or {}
        return found


def _document(line: bytes) -> dict[str, Any] | None:
    """Return the line's object, None if it has no ID."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and isinstance(document.get("id"), str) else None
