"""What a bundle says for people of its items or users: titles, and what the teacher wrote. Found by id or by title.

An index of the file stays in memory; what the teacher wrote is read when it is asked for.
"""

import heapq
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

MOST = 100_000
"""So many are looked at; of further ones nothing is said."""


class _Entry(NamedTuple):
    title: str
    folded: str
    offset: int


class Words:
    """The lines of `items.meta.jsonl` or `users.meta.jsonl`; of a file that is not there, none."""

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

    def title(self, one: str) -> str:
        """Its title, or the id itself."""
        entry = self._entries.get(one)
        return entry.title if entry else one

    def find(self, text: str, most: int) -> list[str]:
        """The ids of the best: the id itself, titles that begin so, titles that have all the words. All, of no text."""
        wanted = text.casefold().strip()
        words = wanted.split()
        found = (
            (one != text, not entry.folded.startswith(wanted), place, one)
            for place, (one, entry) in enumerate(self._entries.items())
            if one == text or all(word in entry.folded for word in words)
        )
        return [one for *_, one in heapq.nsmallest(most, found)]

    def of(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What is said of each, by id; of ids that are not there, nothing."""
        places = {one: entry.offset for one in ids if (entry := self._entries.get(one))}
        found: dict[str, dict[str, Any]] = {}
        if places:
            with self._path.open("rb") as file:
                for one, offset in places.items():
                    file.seek(offset)
                    found[one] = _document(file.readline()) or {}
        return found


def _document(line: bytes) -> dict[str, Any] | None:
    """None of what is no object with an id: such a line says nothing of anybody."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and isinstance(document.get("id"), str) else None
