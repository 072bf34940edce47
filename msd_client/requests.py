"""Requests: a user, a context and candidates to score; the user alone; a BidRequest; events. Knows no HTTP."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from msd_client.errors import InvalidRequest

T = TypeVar("T")
Value = str | int | float | Sequence[str] | Sequence[int] | None
"""A feature's value; None means missing, which differs from not given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Data of a candidate that the service may not know: its text, built by the bundle's template, and its features."""

    text: str | None = None
    features: Mapping[str, Value] | None = None


Pricing = Literal["cpm", "cpc", "cpa"]
"""What a bid is paid per: thousand impressions, click or conversion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """One user, one context, N candidates. Fields that are None are not sent, so stored values count. `user_id` None:
    an anonymous user.

    `bids` has one per ID, paid per click unless `pricing` has cpm, cpc or cpa per ID; `at` is in Unix seconds;
    `history` has what the user was shown, oldest first: an ID for a click, or `item_id`, `clicked` and optionally `at`.
    With `top_k` the reply has the K best, ranked; `slot` is the place of the page to score for, from 1; with `page` the
    reply has the best candidates for that number of places from there. With `explain` it explains each score; with
    `explore` (policy, and optionally share and seed) it says which candidate to show first.
    """

    user_id: str | None
    ids: Sequence[str]
    bids: Sequence[float | None] | None = None
    pricing: Sequence[Pricing] | None = None
    at: float | None = None
    context: Mapping[str, Value] | None = None
    user_features: Mapping[str, Value] | None = None
    history: Sequence[str | Mapping[str, Any]] | None = None
    items: Mapping[str, Item] | None = None
    top_k: int | None = None
    slot: int | None = None
    page: int | None = None
    explain: bool = False
    explore: Mapping[str, Any] | None = None

    def body(self) -> bytes:
        """Return the JSON of /v1/score. Raises InvalidRequest for values that JSON lacks."""
        user = _given(features=_plain(self.user_features), history=_listed(self.history))
        items = {id_: _described(id_, item) for id_, item in (self.items or {}).items()}
        parts = _given(
            at=self.at,
            context=_plain(self.context),
            user=user or None,
            candidates=_columns(self),
            items=items or None,
            top_k=self.top_k,
            slot=self.slot,
            page=self.page,
            explain=self.explain or None,
            explore=self.explore,
        )
        return dumped({"user_id": self.user_id, **parts})


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The ads to score for one impression of a BidRequest; `bids` and `pricing` as in `ScoreRequest`."""

    ids: Sequence[str]
    bids: Sequence[float | None] | None = None
    pricing: Sequence[Pricing] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenrtbRequest:
    """A BidRequest as received, parsed, and the candidates by `imp.id`; other impressions are not scored.

    `at` and `top_k`, of each impression, are as in `ScoreRequest`.
    """

    request: Mapping[str, Any]
    candidates: Mapping[str, Candidates]
    at: float | None = None
    top_k: int | None = None

    def body(self) -> bytes:
        """Return the JSON of /v1/openrtb. Raises InvalidRequest for values that JSON lacks."""
        columns = {
            imp: _columns(_checked(candidates, Candidates, f"candidates.{imp}"))
            for imp, candidates in self.candidates.items()
        }
        return dumped({"request": self.request, "candidates": columns, **_given(at=self.at, top_k=self.top_k)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An impression, a click or a conversion. The first event of an `event_id` and type counts, so repeating is safe.
    `request_id` is that of the reply that led to it; `position` is the place of the page where an impression was shown,
    from 1 to 255. A conversion may have a value, and its currency (ISO 4217). The user is None where anonymous."""

    event_id: str
    type: Literal["impression", "click", "conversion"]
    user_id: str | None
    item_id: str
    at: float | None = None
    request_id: str | None = None
    position: int | None = None
    value: float | None = None
    currency: str | None = None


def events_body(events: Sequence[Event]) -> bytes:
    """Return the JSON of /v1/events."""
    told = ({name: getattr(event, name) for name in Event.__slots__} for event in events)
    return dumped({"events": [{"user_id": None, **_given(**event)} for event in told]})


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueItem:
    """An upsert of an item; a removal; or, with `knowledge` alone, what is known of the item that is there. With
    `if_newer_than`, its version, it is taken only if the item's is less."""

    id: str
    features: Mapping[str, Value] | None = None
    text: str | None = None
    knowledge: Mapping[str, object] | None = None
    expires_at: float | None = None
    if_newer_than: float | None = None
    remove: bool = False


def items_body(items: Sequence[CatalogueItem]) -> bytes:
    """Return the JSON of /v1/items."""
    told = ({name: getattr(item, name) for name in CatalogueItem.__slots__} for item in items)
    return dumped({"items": [_given(**item | {"features": _plain(item["features"])}) for item in told]})


def dumped(document: Mapping[str, Any]) -> bytes:
    """Return JSON. Raises InvalidRequest for non-finite numbers and unsupported types."""
    try:
        return json.dumps(document, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"cannot be written as JSON: {error}") from error


def _columns(of: ScoreRequest | Candidates) -> dict[str, Any]:
    return _given(id=_listed(of.ids), bid=_listed(of.bids), pricing=_listed(of.pricing))


def _checked(value: T, kind: type[T], field: str) -> T:
    if not isinstance(value, kind):
        raise InvalidRequest(f"has to be of type {kind.__name__}, and is of type {type(value).__name__}", field=field)
    return value


def _given(**parts: object) -> dict[str, Any]:
    return {name: value for name, value in parts.items() if value is not None}


def _described(id_: str, item: Item) -> dict[str, Any]:
    _checked(item, Item, f"items.{id_}")
    return _given(text=item.text, features=_plain(item.features))


def _plain(features: Mapping[str, Value] | None) -> dict[str, Any] | None:
    return None if features is None else {name: _listed(value) for name, value in features.items()}


def _listed(value: object) -> object:
    """Return a collection as a list for JSON. A string stays one: a list would hold its characters."""
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping) else value
