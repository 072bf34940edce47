"""Which keys of Redis hold what: a bundle's rows are below its own prefix, and one key points to the bundle in use.

Any writer of rows has to keep to these; what a row is made of says `rows`.
"""

from collections.abc import Mapping

from msd.contract.rows import RowSide

POINTER = "msd:bundle"
PREVIOUS = "msd:bundle:previous"
BESIDE = "msd:bundle:beside"
"""The set of those that were published to be served beside the current one."""
LOCK = "msd:publishing"
_LETTERS: Mapping[RowSide, str] = {"user": "u", "item": "i"}


def key_prefix(bundle_id: str, side: RowSide) -> str:
    """What the keys of one side of one bundle begin with; the id follows."""
    return f"msd:{bundle_id}:{_LETTERS[side]}:"


def rows_key(bundle_id: str) -> str:
    """The key of the digest of the rows that Redis holds of a bundle (`delta`); absent while they are being copied, and
    `base>result` while a delta is."""
    return f"msd:{bundle_id}:rows"


def catalogue_key(bundle_id: str) -> str:
    """The key of the catalogue whose rows are being copied, and how many of its parts are there; absent otherwise."""
    return f"msd:{bundle_id}:catalogue"


def encoded_key(bundle_id: str, key: bytes) -> str:
    """Where the vector of a text is that a request brought; `key` is the text's own (`encoded.text_key`)."""
    return f"msd:{bundle_id}:e:{key.hex()}"


def shown_prefix(bundle_id: str) -> str:
    """What the keys begin with that say which ids were shown most."""
    return f"msd:{bundle_id}:shown:"


def shown_key(bundle_id: str, side: RowSide, number: int) -> str:
    """The keys, numbered from 0 until there is none, of the ids of one side, those shown most first: each holds some of
    them, packed like a history (`rows`). For caches, which can do without; they may be older than the rows."""
    return f"{shown_prefix(bundle_id)}{_LETTERS[side]}:{number}"


LIVE_STREAM = "msd:live:stream"
"""How far the stream of events reaches. Live keys belong to no bundle: publishing leaves them alone."""


def live_key(side: RowSide, one: str) -> str:
    """Where the live state of an id is. What stands in braces has all keys of one id in one slot of a cluster."""
    return f"{live_prefix(side)}{one}}}"


def live_prefix(side: RowSide) -> str:
    """What the keys of one side's live states begin with."""
    return f"msd:live:{{{_LETTERS[side]}:"


def seen_key(side: RowSide, one: str, period: int) -> str:
    """Which events of an id were seen in a numbered period."""
    return f"msd:live:seen:{period}:{{{_LETTERS[side]}:{one}}}"


def event_key(digest: bytes) -> str:
    """Of an event that was seen: its period (int64), and a digest of its user and item."""
    return f"msd:live:event:{digest.hex()}"
