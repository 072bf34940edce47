"""Requests: a user, a context and candidates to score; or events. Knows no HTTP."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from msd_client.errors import InvalidRequest

Value = str | int | float | Sequence[str] | Sequence[int] | None
"""A feature's value; None means missing, which differs from not given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Data of a candidate that the service may not know: its text, built by the bundle's template, and its features."""

    text: str | None = None
    features: Mapping[str, Value] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """One user, one context, N candidates. Fields that are None are not sent, so stored values count.

    `bids` has one per ID, paid per click unless `pricing` has cpm, cpc or cpa per ID; `at` is in Unix seconds;
    `history` are IDs, oldest first. With `top_k` the reply has the K best, ranked. With `explain` it explains each
    score.
    """

    user_id: str
    ids: Sequence[str]
    bids: Sequence[float | None] | None = None
    pricing: Sequence[Literal["cpm", "cpc", "cpa"]] | None = None
    at: float | None = None
    context: Mapping[str, Value] | None = None
    user_features: Mapping[str, Value] | None = None
    history: Sequence[str] | None = None
    items: Mapping[str, Item] | None = None
    top_k: int | None = None
    explain: bool = False

    def body(self) -> bytes:
        """Return the JSON of /v1/score. Raises InvalidRequest for values that JSON lacks."""
        user = _given(features=_plain(self.user_features), history=_listed(self.history))
        items = {id_: _described(id_, item) for id_, item in (self.items or {}).items()}
        return dumped(
            {
                "user_id": self.user_id,
                "candidates": _given(id=_listed(self.ids), bid=_listed(self.bids), pricing=_listed(self.pricing)),
                **_given(
                    at=self.at,
                    context=_plain(self.context),
                    user=user or None,
                    items=items or None,
                    top_k=self.top_k,
                    explain=self.explain or None,
                ),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An impression, a click or a conversion. The first event of an `event_id` and type counts, so repeating is safe.
    `request_id` is that of the reply that led to it."""

    event_id: str
    type: Literal["impression", "click", "conversion"]
    user_id: str
    item_id: str
    at: float | None = None
    request_id: str | None = None


def events_body(events: Sequence[Event]) -> bytes:
    """Return the JSON of /v1/events."""
    return dumped({"events": [_given(**{name: getattr(event, name) for name in Event.__slots__}) for event in events]})


def dumped(document: Mapping[str, Any]) -> bytes:
    """Return JSON. Raises InvalidRequest for non-finite numbers and unsupported types."""
    try:
        return json.dumps(document, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"cannot be written as JSON: {error}") from error


def _given(**parts: object) -> dict[str, Any]:
    return {name: value for name, value in parts.items() if value is not None}


def _described(id_: str, item: Item) -> dict[str, Any]:
    if not isinstance(item, Item):
        raise InvalidRequest(f"has to be an Item, and is of type {type(item).__name__}", field=f"items.{id_}")
    return _given(text=item.text, features=_plain(item.features))


def _plain(features: Mapping[str, Value] | None) -> dict[str, Any] | None:
    return None if features is None else {name: _listed(value) for name, value in features.items()}


def _listed(value: object) -> object:
    """Return a collection as a list for JSON. A string is rejected: it would be split into characters."""
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping) else value
