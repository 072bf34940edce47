"""Redis keys: a bundle's rows are below its own prefix, and one key points to the current bundle. Every writer of rows
must use these; `rows` defines a row's format.
"""

from collections.abc import Mapping

from msd.contract.rows import RowSide

POINTER = "msd:bundle"
PREVIOUS = "msd:bundle:previous"
BESIDE = "msd:bundle:beside"
"""The set of bundles published beside the current one."""
LOCK = "msd:publishing"
_LETTERS: Mapping[RowSide, str] = {"user": "u", "item": "i"}


def key_prefix(bundle_id: str, side: RowSide) -> str:
    """Return the key prefix of one side of one bundle; the ID follows."""
    return f"msd:{bundle_id}:{_LETTERS[side]}:"


def rows_key(bundle_id: str) -> str:
    """Return the key of the digest of a bundle's rows in Redis (`delta`); absent while they are copied, and
    `base>result` during a delta."""
    return f"msd:{bundle_id}:rows"


def catalogue_key(bundle_id: str) -> str:
    """Return the key of the catalogue being copied and its number of copied parts; absent otherwise."""
    return f"msd:{bundle_id}:catalogue"


LIVE_STREAM = "msd:live:stream"
"""End of the event stream. Live keys belong to no bundle: publishing leaves them alone."""


def live_key(side: RowSide, entity_id: str) -> str:
    """Return the key of an ID's live state. The braces put all keys of one ID into one cluster slot."""
    return f"{live_prefix(side)}{entity_id}}}"


def live_prefix(side: RowSide) -> str:
    return f"msd:live:{{{_LETTERS[side]}:"


def seen_key(side: RowSide, entity_id: str, period: int) -> str:
    """Return the key of an ID's seen events in a numbered period."""
    return f"msd:live:seen:{period}:{{{_LETTERS[side]}:{entity_id}}}"


def event_key(digest: bytes) -> str:
    """Return the key of a claimed event: its period (int64), and a digest of its user and item."""
    return f"msd:live:event:{digest.hex()}"


ITEMS, ITEMS_LAST = "msd:{items}", "msd:{items}:last"
"""The live catalogue: a hash of items by ID, and the number of its latest change. Its keys belong to no bundle, and are
in one cluster slot."""


def items_order(order: str) -> str:
    """Return the key of a sorted set of the catalogue's IDs."""
    return f"{ITEMS}:{order}"
