"""The service's replies, read from JSON. An invalid reply raises BadReply. Knows no HTTP."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, NamedTuple

from msd_client.errors import BadReply

_SHOWN = 120


class ScoredCandidate(NamedTuple):
    """`rung` says what it was scored from: None for its own row, otherwise `cached`, `encoded`, `category_prior` or
    `prior`."""

    id: str
    pctr: float
    ecpm: float | None
    rung: str | None


@dataclass(frozen=True, slots=True)
class ScoreReply:
    """Columns of equal length, in the request's order, or ranked with `top_k`.

    `page` has the first places of the page, if the request asks for one. `heads` has every output of the model by name,
    including `pctr`. `degraded` has the rung of each candidate without a score from its own row, `degraded_user` that
    of the user. `explanation` and `explore` are the raw objects.
    """

    request_id: str
    model_version: str
    ids: list[str]
    pctr: list[float]
    ecpm: list[float | None]
    heads: Mapping[str, list[float]]
    degraded: Mapping[str, str]
    degraded_user: str | None = None
    arm: str | None = None
    explanation: Mapping[str, Any] | None = None
    explore: Mapping[str, Any] | None = None
    degraded_values: Mapping[str, str] = field(default_factory=dict)
    """Values that the model has never seen, by their place in the request."""
    degraded_history: int = 0
    """Items of the request's history without a row."""
    page: "Page | None" = None

    def __iter__(self) -> Iterator[ScoredCandidate]:
        rungs = map(self.degraded.get, self.ids) if self.degraded else repeat(None)
        return map(ScoredCandidate, self.ids, self.pctr, self.ecpm, rungs)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def is_degraded(self) -> bool:
        """Whether anything was scored from less than its own row, or with an unknown value or history item."""
        return bool(self.degraded or self.degraded_user or self.degraded_values or self.degraded_history)


@dataclass(frozen=True, slots=True)
class Page:
    """The best candidates, each scored for its place of the page, `slots` from 1. `total_ecpm`: of all places, None if
    one has no bid."""

    ids: list[str]
    slots: list[int]
    ecpm: list[float | None]
    heads: Mapping[str, list[float]]
    total_ecpm: float | None


@dataclass(frozen=True, slots=True)
class OpenrtbReply:
    """The replies by `imp.id`, in the request's order. `id` is the BidRequest's; without `consent` nothing about the
    user's identity was used."""

    id: str
    consent: bool
    imps: Mapping[str, ScoreReply]


@dataclass(frozen=True, slots=True)
class ItemsReply:
    """The fate of each item, by ID."""

    fates: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EventsReply:
    """Numbers of counted events and of duplicates."""

    accepted: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class Ready:
    """Whether requests should be sent, and if not, what is missing."""

    ready: bool
    draining: bool
    missing: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Model:
    """What is served; `document` is the service's whole answer."""

    bundle_id: str
    model_version: str
    heads: list[str]
    max_candidates: int
    document: Mapping[str, Any]


def read_openrtb(document: Mapping[str, Any]) -> OpenrtbReply:
    """Read the reply of /v1/openrtb."""
    replies = _part(document, "imp", dict)
    imps = {imp: read_score(_part(replies, imp, dict)) for imp in replies}
    return OpenrtbReply(_part(document, "id", str), _part(document, "consent", bool), imps)


def read_score(document: Mapping[str, Any]) -> ScoreReply:
    """Read the reply of /v1/score."""
    columns, degraded = _part(document, "candidates", dict), _part({"degraded": {}, **document}, "degraded", dict)
    heads = _heads(columns, "candidates")
    ids, ecpm, pctr = _part(columns, "id", list), columns["ecpm"], _part(heads, "pctr", list)
    return ScoreReply(
        request_id=_part(document, "request_id", str),
        model_version=_part(document, "model_version", str),
        ids=ids,
        pctr=pctr,
        ecpm=ecpm,
        heads=heads,
        degraded=_part({"candidates": {}, **degraded}, "candidates", dict),
        degraded_user=degraded.get("user"),
        arm=document.get("arm"),
        explanation=document.get("explanation"),
        explore=document.get("explore"),
        degraded_values=_part({"values": {}, **degraded}, "values", dict),
        degraded_history=_part({"history": 0, **degraded}, "history", int),
        page=_read_page(_part(document, "page", dict)) if "page" in document else None,
    )


def _read_page(columns: Mapping[str, Any]) -> Page:
    heads = _heads(columns, "page")
    return Page(columns["id"], _part(columns, "slot", list), columns["ecpm"], heads, columns.get("total_ecpm"))


def _heads(columns: Mapping[str, Any], of: str) -> dict[str, list[float]]:
    """Return the scores by head. All columns, which a reply needs, have to be as long as that of IDs."""
    names = {"id", "ecpm", *columns} - {"total_ecpm"}
    lists = {name: _part(columns, name, list) for name in sorted(names)}
    if len({len(column) for column in lists.values()}) > 1:
        raise BadReply(f"the columns of {of} differ in length")
    return {name: column for name, column in lists.items() if name not in ("id", "slot", "ecpm")}


def read_items(document: Mapping[str, Any]) -> ItemsReply:
    """Read the reply of /v1/items."""
    items = _part(document, "items", list)
    return ItemsReply({_part(item, "id", str): _part(item, "fate", str) for item in items})


def read_events(document: Mapping[str, Any]) -> EventsReply:
    """Read the reply of /v1/events."""
    return EventsReply(_part(document, "accepted", int), _part(document, "duplicates", int))


def read_ready(document: Mapping[str, Any]) -> Ready:
    """Read the reply of /health/ready."""
    return Ready(_part(document, "ready", bool), _part(document, "draining", bool), _part(document, "missing", dict))


def read_model(document: Mapping[str, Any]) -> Model:
    """Read the reply of /v1/model."""
    return Model(
        bundle_id=_part(document, "bundle_id", str),
        model_version=_part(document, "model_version", str),
        heads=_part(document, "heads", list),
        max_candidates=_part(document, "max_candidates", int),
        document=document,
    )


def loaded(body: bytes) -> dict[str, Any]:
    """Return a JSON object."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise BadReply(f"the reply is not JSON: {body[:_SHOWN]!r}") from None
    if not isinstance(document, dict):
        raise BadReply(f"the reply is not a JSON object: {body[:_SHOWN]!r}")
    return document


def _part(document: Mapping[str, Any], name: str, kind: type) -> Any:  # noqa: ANN401 - of the type `kind`
    value = document.get(name)
    if not isinstance(value, kind):
        raise BadReply(f"the reply's {name!r} is not of type {kind.__name__}: {str(value)[:_SHOWN]}")
    return value
