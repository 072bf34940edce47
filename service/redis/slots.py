"""Which node of a cluster holds which key, as the cluster itself tells it.

Knows slots and how nodes write of them. Does not connect.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import hiredis
from redis.crc import key_slot

from service.errors import StoreError
from service.redis.redis_line import pack
from service.redis.redis_url import Address

SLOTS = 16_384
INFO = pack(b"CLUSTER", b"INFO")
RANGES = pack(b"CLUSTER", b"SLOTS")
ASKING = pack(b"ASKING")

slot_of = key_slot


class Redirect(NamedTuple):
    """Where a node says that a key is: for good, or while it moves there."""

    to: Address
    is_for_good: bool


def read_redirect(error: hiredis.ReplyError, asked: Address) -> Redirect | None:
    """The redirection that an error is, if it is one."""
    kind, _, rest = str(error).partition(" ")
    if kind not in ("MOVED", "ASK"):
        return None
    host, _, port = rest.rpartition(" ")[2].rpartition(":")
    return Redirect((host or asked[0], int(port)), kind == "MOVED") if port.isdigit() else None


def read_view(info: Any) -> int:  # noqa: ANN401 - any reply
    """Of what time a node's view of the cluster is; −1 of one that is cut off from it, or is no part of one."""
    lines = dict(line.split(":", 1) for line in _text(info).split("\r\n") if ":" in line)
    epoch = lines.get("cluster_current_epoch", "")
    return int(epoch) if lines.get("cluster_state") == "ok" and epoch.isdecimal() else -1


def read_ranges(reply: Any, asked: Address) -> dict[Address, list[tuple[int, int]]]:  # noqa: ANN401 - any reply
    """The slots of each master, as first and last ones. Raises StoreError where it is no such reply."""
    if isinstance(reply, hiredis.ReplyError):
        raise StoreError(str(reply))
    found: dict[Address, list[tuple[int, int]]] = {}
    try:
        for first, last, (host, port, *_), *_ in reply:
            name = host.decode() if host else asked[0]
            if name != "?":
                found.setdefault((name, int(port)), []).append((int(first), int(last)))
    except (TypeError, ValueError, AttributeError):
        raise StoreError("what it answers to CLUSTER SLOTS cannot be understood") from None
    if not found:
        raise StoreError("no node holds any slot")
    return found


def groups_of(keys: Sequence[bytes]) -> list[list[int]]:
    """Places of keys by their slot."""
    groups: dict[int, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(slot_of(key), []).append(place)
    return list(groups.values())


def _text(reply: Any) -> str:  # noqa: ANN401 - any reply
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else ""
