"""Room in a file of live states: faded ones leave and, if states fill their share, those of IDs without a row, because
events can invent IDs.
"""

from collections.abc import Mapping

import lmdb

from msd.contract.rows import RowSide
from msd.contract.state import StateRule
from service.live.live_state import head_of
from service.live.store import kept_s

# Of the file's limit: a transaction copies the pages that it changes, and the events seen need room, too.
_SHARE = 1 / 3
_LOOKED_AT = 16


class Room:
    """The room of one file, for its writer."""

    def __init__(self, states: "lmdb._Database", max_bytes: int) -> None:
        self._states = states
        self._most = int(_SHARE * max_bytes)
        self._place = b""
        self.evicted = 0
        """States without a row that left because states filled their share."""

    def make(self, transaction: lmdb.Transaction, changed: int, now: float, rules: Mapping[RowSide, StateRule]) -> None:
        """Let states leave after some were changed. Of a few neighbours at a time: those that have faded by `now` and,
        if states fill their share, the half of those without a row that was not changed for longest."""
        is_full = used_bytes(transaction, self._states) > self._most
        looks = 1 + 2 * changed // _LOOKED_AT if is_full else 1
        with transaction.cursor(self._states) as cursor:
            for _ in range(looks):
                rowless = []
                for key, packed in self._look(cursor):
                    head, rule = head_of(packed), rules["user" if key[:1] in b"uU" else "item"]
                    if head is None or now > head.as_of + kept_s(max(head.impressions, head.clicks), rule):
                        cursor.pop(key)
                    elif head.is_rowless:
                        rowless.append((head.as_of, key))
                leaving = sorted(rowless)[: -(-len(rowless) // 2)] if is_full else []
                for _, key in leaving:
                    cursor.pop(key)
                self.evicted += len(leaving)

    def _look(self, cursor: lmdb.Cursor) -> list[tuple[bytes, bytes]]:
        """Return the states behind those of the last look; from the beginning after the end."""
        is_there = cursor.set_range(self._place) or cursor.first()
        looked: list[tuple[bytes, bytes]] = []
        while is_there and len(looked) < _LOOKED_AT:
            looked.append((bytes(cursor.key()), bytes(cursor.value())))
            is_there = cursor.next()
        self._place = bytes(cursor.key()) if is_there else b""
        return looked


def used_bytes(transaction: lmdb.Transaction, database: "lmdb._Database") -> int:
    """Return the bytes of a database's pages."""
    about = transaction.stat(database)
    return about["psize"] * (about["branch_pages"] + about["leaf_pages"] + about["overflow_pages"])
