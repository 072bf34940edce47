"""Items of the live catalogue as they are kept, what an edit makes of one, and the interface of their stores.

Knows no bundle: rows are derived from items, and kept beside them by the bundle they are for. Times are Unix seconds.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Protocol, Self

import orjson
from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from msd.contract.errors import MsdError
from msd.contract.request import MAX_TEXT_CHARS, Wire
from service.errors import StoreError
from service.limits import MAX_ITEM_BYTES

MAX_KEPT_BYTES = 2 * MAX_ITEM_BYTES
"""Of an item as it is kept, with its times."""
FORGET_S = 30 * 86_400.0
"""For which a removal is remembered: it hides the export's row, and older versions stay refused."""
# Of one item's changes, on clocks that go back too.
_TICK_S = 1e-5

Fate = Literal["accepted", "unchanged", "older", "removed", "expired", "absent", "outdated"]
Order = Literal["changed", "due", "gone", "waiting"]
"""Items in order: of their latest change (a sequence number); of when they expire or are forgotten; of removal; those
that wait for knowledge, by when their text came."""


Text = Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARS)]


class Knowledge(Wire):
    """The words of a teacher, or of the platform itself, about an item."""

    explicit: Text = Field(description="What the item is.")
    implicit: Text = Field(description="Whom it may interest, and why.")
    tags: Annotated[list[Annotated[str, StringConstraints(max_length=256)]], Field(max_length=32)]


class CatalogueError(StoreError):
    """Items cannot be read or kept; the message says why."""


class CatalogueFull(MsdError):
    """There is no room for new items."""


class Item(NamedTuple):
    """A described item, or the memory of a removed one."""

    id: str
    changed_at: float
    """Of what its row is made of; greater with each change."""
    given_at: float
    features: Mapping[str, Any] = {}
    text: Text | None = None
    text_at: float = 0.0
    knowledge: Knowledge | None = None
    knowledge_at: float | None = None
    knowledge_from: Literal["catalogue", "teacher"] | None = None
    expires_at: float | None = None
    version: float | None = None
    removed_at: float | None = None

    def pack(self) -> bytes:
        return orjson.dumps(self._asdict(), default=Knowledge.model_dump)

    @property
    def places(self) -> dict[Order, float]:
        """Return its place in each order that it is in, but that of changes."""
        if self.removed_at is not None:
            return {"gone": self.removed_at, "due": self.removed_at + FORGET_S}
        found: dict[Order, float] = {}
        if self.expires_at is not None:
            found["due"] = self.expires_at
        if self.text and self.knowledge is None:
            found["waiting"] = self.text_at
        return found

    def removed(self, now: float) -> Self:
        """Return what is remembered of it once it is removed."""
        return type(self)(self.id, self.after(now), self.given_at, version=self.version, removed_at=now)

    def lapsed(self, now: float) -> Self | None:
        """Return what is left of it at a time; itself if that is all."""
        if self.removed_at is not None:
            return self if now < self.removed_at + FORGET_S else None
        return self if self.expires_at is None or now < self.expires_at else self.removed(now)

    def after(self, now: float) -> float:
        """Return the time of a change."""
        return max(now, self.changed_at + _TICK_S)


_KEPT = TypeAdapter(Item)


def unpack_item(item_id: str, packed: bytes | None) -> Item | None:
    """Return what is kept under an ID; None for None, and for what no service has kept there, such as damaged bytes or
    another item: then it can be described again."""
    if packed is None or len(packed) > MAX_KEPT_BYTES:
        return None
    try:
        found = _KEPT.validate_json(packed)
    except ValidationError:
        return None
    return found if found.id == item_id else None


class Edit(NamedTuple):
    """An upsert, words alone, or a removal."""

    id: str
    kind: Literal["describe", "teach", "remove"]
    features: Mapping[str, Any] = {}
    text: str | None = None
    knowledge: Knowledge | None = None
    expires_at: float | None = None
    version: float | None = None
    text_sha256: str | None = None

    def of(self, held: Item | None, now: float) -> tuple[Item | None, Fate]:
        """Return what it makes of an item, `held` itself if nothing changes, and its fate."""
        if held is not None and None not in (self.version, held.version) and self.version <= held.version:  # type: ignore[operator]
            return held, "older"
        if self.kind == "teach":
            return self._taught(held, now)
        version = self.version if self.version is not None or held is None else held.version
        base = Item(self.id, now, now) if held is None else held
        base = base._replace(version=version)
        if self.kind == "remove":
            return base.removed(now), "removed"
        if self.expires_at is not None and self.expires_at <= now:
            return base.removed(now), "expired"
        return self._described(held, base, now)

    def _described(self, held: Item | None, base: Item, now: float) -> tuple[Item | None, Fate]:
        if held is None or held.removed_at is not None:
            base = Item(self.id, base.after(now) if held else now, now, version=base.version)
        is_same_text = held is not None and held.text == self.text
        made = base._replace(features=self.features, text=self.text, expires_at=self.expires_at)
        if not is_same_text:
            made = made._replace(text_at=now, knowledge=None, knowledge_at=None, knowledge_from=None)
        if self.knowledge is not None and self.knowledge != made.knowledge:
            made = made._replace(knowledge=self.knowledge, knowledge_at=now, knowledge_from="catalogue")
        if made == held:
            return held, "unchanged"
        return made._replace(changed_at=base.after(now)), "accepted"

    def _taught(self, held: Item | None, now: float) -> tuple[Item | None, Fate]:
        if held is None or held.removed_at is not None:
            return held, "absent"
        if self.text_sha256 not in (None, hashlib.sha256((held.text or "").encode()).hexdigest()):
            return held, "outdated"
        if self.knowledge == held.knowledge:
            return held, "unchanged"
        made = held._replace(knowledge=self.knowledge, knowledge_at=now, knowledge_from="teacher")
        return made._replace(changed_at=held.after(now)), "accepted"


Decide = Callable[[Sequence[Item | None]], Mapping[str, Item | None]]
"""From what is kept of IDs [n], in order, to what is to be kept of some of them; None: nothing. May be called again,
if another service was faster."""


class ItemStore(Protocol):
    """Items, and rows derived from them, by ID. Every failure is a CatalogueError."""

    async def edit(self, ids: Sequence[str], decide: Decide) -> int:
        """Change items in one transaction; return the number of the latest change once it is durable. Raises
        CatalogueFull if they would be too many, and what `decide` raises; then nothing has changed."""
        ...

    async def items(self, ids: Sequence[str]) -> list[Item | None]: ...

    async def ordered(self, order: Order, after: float, most: int) -> list[tuple[float, str]]:
        """Return the places in an order, and the IDs, of the first items behind a place."""
        ...

    async def size(self) -> tuple[int, int]:
        """Return the number of items, with those remembered, and the sequence number of the latest change."""
        ...

    async def rows(self, bundle_id: str, ids: Sequence[str]) -> list[bytes | None]: ...

    async def put_rows(self, bundle_id: str, rows: Mapping[str, bytes | None]) -> None:
        """Keep rows; None removes one."""
        ...

    async def keep_rows_of(self, bundle_ids: Sequence[str]) -> None:
        """Note that these bundles are in use; rows of bundles that no service uses are removed in time."""
        ...

    async def close(self) -> None: ...
