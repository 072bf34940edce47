"""A scoring request, of a body that the service accepts."""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from tests.reference.schema import Schema, Value, unknown_words

LONGEST_HISTORY = 1_000


class Seen(NamedTuple):
    """An item that the user was shown: when last (Unix s; infinite: at the time of the request), how often, and how
    often they clicked."""

    at: float
    item_id: str
    shown: float = 1.0
    clicked: float = 1.0

    def joined(self, other: "Seen") -> "Seen":
        """Return what both tell of the same item."""
        return Seen(max(self.at, other.at), self.item_id, self.shown + other.shown, self.clicked + other.clicked)


class Request(NamedTuple):
    """What a request says. Values are in their fields' form; `unknown` are the places of words that no model knows."""

    user_id: str
    ids: list[str]
    at: float | None
    bids: list[float | None] | None
    pricing: list[str] | None
    context: dict[str, Value]
    user: dict[str, Value]
    history: list[Seen] | None
    items: dict[str, dict[str, Value]]
    texts: dict[str, str]
    top_k: int | None
    slot: int | None
    page: int | None
    explore: Mapping[str, Any] | None
    unknown: list[str]


def read_request(body: bytes, schema: Schema) -> Request:
    """Return the request in a body."""
    document = {name: value for name, value in json.loads(body).items() if value is not None}
    candidates, user = document["candidates"], document.get("user", {})
    described = {item: told for item, told in document.get("items", {}).items() if told is not None}
    unknown: dict[str, None] = {}

    def values(side: str, place: str, given: Mapping[str, Any] | None) -> dict[str, Value]:
        found = {}
        for name, value in (given or {}).items():
            field = schema.settable(side)[name]
            found[name] = _in_form(field["kind"], value)
            if unknown_words(field, found[name]):
                unknown[f"{place}.{name}"] = None
        return found

    history = user.get("history")
    return Request(
        user_id=document.get("user_id", ""),
        ids=candidates["id"],
        at=float(document["at"]) + 0.0 if "at" in document else None,
        bids=candidates.get("bid"),
        pricing=candidates.get("pricing"),
        context=values("context", "context", document.get("context")),
        user=values("user", "user.features", user.get("features")),
        history=None if history is None else _joined(history[-LONGEST_HISTORY:]),
        items={item: values("item", "items.features", told.get("features")) for item, told in described.items()},
        texts={item: told["text"] for item, told in described.items() if (told.get("text") or " ").strip()},
        top_k=document.get("top_k"),
        slot=document.get("slot", 1 if "page" in document else None),
        page=document.get("page"),
        explore=document.get("explore"),
        unknown=list(unknown),
    )


def _in_form(kind: str, value: Any) -> Value:  # noqa: ANN401
    if value is None or kind == "numeric":
        return None if value is None else float(value)
    return [str(one) for one in value] if kind == "bag" else str(value)


def _joined(entries: list[Any]) -> list[Seen]:
    """Return the impressions of a history: an ID alone is a click; those of one item are one, in the place of the
    last."""
    joined: dict[str, Seen] = {}
    for entry in entries:
        if isinstance(entry, str):
            entry = {"item_id": entry, "clicked": True}
        at = math.inf if entry.get("at") is None else float(entry["at"])
        new = Seen(at, entry["item_id"], 1.0, float(entry["clicked"]))
        known = joined.pop(new.item_id, None)
        joined[new.item_id] = known.joined(new) if known else new
    return list(joined.values())
