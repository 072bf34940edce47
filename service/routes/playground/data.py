"""Read-only data of the playground's page beside scores: request fields, users and ads to pick, and what is known about
them.
"""

import asyncio
import heapq
import json
import math
import threading
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from msd.contract.bundle import GOLDENS, ITEM_WORDS, USER_WORDS, Manifest
from msd.contract.golden import Golden, read_goldens
from msd.contract.request import MAX_EXPLAINED, InvalidRequest
from msd.contract.rows import Records, Rows, RowSide
from msd.contract.schema import MAX_ID_CHARS, SIDES, Bag, FeatureSchema, Numeric, Side, ValueField
from service.cold.cold_ads import encodes
from service.errors import ServiceError, StoreError
from service.http.access import PLAYGROUND
from service.scoring.deployment import Serving
from service.scoring.model import Model
from service.settings import Settings

MOST_LINES = 100_000
"""Maximum lines of a file of titles that are read; later ones are ignored."""
_MOST_FOUND = 20
_MOST_ASKED = 200
_EXAMPLE_ADS = 12
_MOST_VALUES = 1_000
_FIRST_VALUE = 2
_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


class _Entry(NamedTuple):
    title: str
    folded: str
    line: bytes


class Words:
    """Titles of a bundle's items or users, and what the teacher wrote: the lines of `items.meta.jsonl` or
    `users.meta.jsonl`; none if the file does not exist."""

    def __init__(self, path: Path) -> None:
        self._entries: dict[str, _Entry] = {}
        if not path.is_file():
            return
        with path.open("rb") as file:
            for line in islice(file, MOST_LINES):
                if (document := _document(line)) is not None:
                    title = str(document.get("title") or document["id"])
                    self._entries[document["id"]] = _Entry(title, title.casefold(), line)

    def __len__(self) -> int:
        return len(self._entries)

    def title(self, entity_id: str) -> str:
        entry = self._entries.get(entity_id)
        return entry.title if entry else entity_id

    def find(self, text: str, most: int) -> list[str]:
        """Return the best IDs: the ID itself, titles with this prefix, titles with all the words. An empty text finds
        all."""
        wanted = text.casefold().strip()
        words = set(wanted.split())
        found = (
            (entity_id != text, not entry.folded.startswith(wanted), place, entity_id)
            for place, (entity_id, entry) in enumerate(self._entries.items())
            if entity_id == text or all(word in entry.folded for word in words)
        )
        return [entity_id for *_, entity_id in heapq.nsmallest(most, found)]

    def of(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        entries = {item_id: entry for item_id in ids if (entry := self._entries.get(item_id))}
        return {item_id: _document(entry.line) or {} for item_id, entry in entries.items()}


def _document(line: bytes) -> dict[str, Any] | None:
    """Return the line's object, None if it has no ID."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and isinstance(document.get("id"), str) else None


class RowsUnavailable(ServiceError):
    status = 503
    code = "rows_unavailable"
    retry_after_s = 1


class Shelf(NamedTuple):
    """Human-readable data of one model's bundle. `example` is a request of its goldens."""

    items: Words
    users: Words
    example: dict[str, Any]


class PlaygroundData:
    """The routes' data, for the first arm's model."""

    def __init__(self, serving: Serving, settings: Settings, without: Model | None) -> None:
        self._serving, self._settings, self._without = serving, settings, without
        self._shelves: WeakKeyDictionary[Model, Shelf] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def routes(self) -> list[Route]:
        asked = {"about": self._about, "items": self._items, "ads": self._ads, "users": self._users, "user": self._user}
        return [Route(f"{PLAYGROUND}data/{name}", answer, methods=["GET"]) for name, answer in asked.items()]

    async def _about(self, _: Request) -> Response:
        model = self._serving.current.champion
        shelf = await self._shelf(model)
        schema = model.schema
        return _json(
            {
                "model_version": model.version,
                "semantics": _semantics(model.bundle.manifest),
                "without": self._without and self._without.version,
                "fields": {
                    side: [_field(name, field) for name, field in schema.settable[side].items()] for side in SIDES
                },
                "item_text": schema.item_text,
                "encodes_texts": encodes(self._settings.encoder, model.bundle),
                "history_length": schema.history.length,
                "most_explained": min(MAX_EXPLAINED, self._settings.max_candidates),
                "items": len(shelf.items),
                "users": len(shelf.users),
                "example": shelf.example,
            }
        )

    async def _items(self, request: Request) -> Response:
        shelf = await self._shelf(self._serving.current.champion)
        found = await asyncio.to_thread(shelf.items.find, _text(request), _MOST_FOUND)
        return _json({"items": [{"id": item_id, "title": shelf.items.title(item_id)} for item_id in found]})

    async def _users(self, request: Request) -> Response:
        shelf = await self._shelf(self._serving.current.champion)
        found = await asyncio.to_thread(shelf.users.find, _text(request), _MOST_FOUND)
        return _json({"users": [{"id": user_id} for user_id in found]})

    async def _ads(self, request: Request) -> Response:
        model, ids = self._serving.current.champion, request.query_params.getlist("id")
        if not 1 <= len(ids) <= _MOST_ASKED:
            raise InvalidRequest(f"{len(ids)} ids; from 1 to {_MOST_ASKED} may be asked for", "id")
        _check_ids(ids)
        shelf, rows = await self._shelf(model), await _rows(model, "item", ids)
        words = await asyncio.to_thread(shelf.items.of, ids)
        ads = {}
        for place, item_id in enumerate(ids):
            known = bool(rows.found[place])
            features = _values_in(model.schema, "item", rows.records[place : place + 1]) if known else {}
            said = {**words.get(item_id, {}), "title": shelf.items.title(item_id)}
            ads[item_id] = {**said, "known": known, "features": features}
        return _json({"ads": ads})

    async def _user(self, request: Request) -> Response:
        model, user_id = self._serving.current.champion, request.query_params.get("id", "")
        _check_ids([user_id])
        shelf, rows = await self._shelf(model), await _rows(model, "user", [user_id])
        words, known = await asyncio.to_thread(shelf.users.of, [user_id]), bool(rows.found[0])
        history = rows.histories[0][-model.schema.history.length :]
        return _json(
            {
                "id": user_id,
                "known": known,
                "features": _values_in(model.schema, "user", rows.records) if known else {},
                "history": [{"id": seen.item_id, "clicked": seen.clicked > 0, "at": seen.at} for seen in history],
                "words": words.get(user_id),
            }
        )

    async def _shelf(self, model: Model) -> Shelf:
        """Read the data on first use, off the loop."""
        known = self._shelves.get(model)
        return known if known is not None else await asyncio.to_thread(self._read, model)

    def _read(self, model: Model) -> Shelf:
        with self._lock:
            shelf = self._shelves.get(model)
            if shelf is None:
                items, users = (Words(model.bundle.path(name)) for name in (ITEM_WORDS, USER_WORDS))
                example = example_of(list(read_goldens(model.bundle.path(GOLDENS))))
                shelf = self._shelves[model] = Shelf(items, users, example)
        return shelf


def _semantics(manifest: Manifest) -> Literal["knowledge", "texts"] | None:
    """Return what the model's vectors are made of: a teacher's words, or texts alone; None if it reads no vectors."""
    if not any(manifest.feature_schema.semantic(side) for side in ("user", "item")):
        return None
    return "knowledge" if manifest.provenance.get("teacher") else "texts"


def example_of(goldens: list[Golden]) -> dict[str, Any]:
    """Return user, context and time of a golden, preferably one whose user has a row, and known items of all
    goldens."""
    best = max(goldens, key=lambda golden: (golden.user is not None, bool(golden.request.get("context"))))
    known = (ad for golden in [best, *goldens] for ad in golden.request["candidates"]["id"] if ad in golden.items)
    return {
        "user_id": best.request["user_id"],
        "at": best.request["at"],
        "context": best.request.get("context") or {},
        "ads": list(dict.fromkeys(known))[:_EXAMPLE_ADS],
    }


async def _rows(model: Model, side: RowSide, ids: list[str]) -> Rows:
    try:
        return await model.store.get(side, ids)
    except StoreError as error:
        if error.rows is None:
            raise RowsUnavailable(str(error)) from None
        return error.rows


def _text(request: Request) -> str:
    text = request.query_params.get("text", "")
    if len(text) > MAX_ID_CHARS:
        raise InvalidRequest(f"has {len(text)} characters; {MAX_ID_CHARS} are allowed", "text")
    return text


def _check_ids(ids: list[str]) -> None:
    if any(not 1 <= len(entity_id) <= MAX_ID_CHARS or "\0" in entity_id for entity_id in ids):
        raise InvalidRequest(f"an id has from 1 to {MAX_ID_CHARS} characters, none of them NUL", "id")


def _json(document: dict[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type="application/json", headers=_HEADERS)


def _values_in(schema: FeatureSchema, side: Side, record: Records) -> dict[str, Any]:
    return {name: _value(schema, field, record) for name, field in schema.settable[side].items()}


def _field(name: str, field: ValueField) -> dict[str, Any]:
    if isinstance(field, Numeric):
        return {"name": name, "kind": field.kind}
    found: dict[str, Any] = {"name": name, "kind": field.kind, "values": list(field.vocabulary[:_MOST_VALUES])}
    return found | ({"most": field.max_values} if isinstance(field, Bag) else {})


def _value(schema: FeatureSchema, field: ValueField, record: Records) -> Any:  # noqa: ANN401 - of any field's type
    columns = schema.columns[field.name]
    if isinstance(field, Numeric):
        standard, is_missing = record["numeric"][0, columns].tolist()
        if is_missing:
            return None
        number = standard * field.scale + field.mean
        if field.log:
            number = math.copysign(math.expm1(min(abs(number), 700.0)), number)
        return float(f"{number:.5g}")
    indices = record["categorical"][0, columns].tolist() if field.buckets is None else []
    values = [field.vocabulary[index - _FIRST_VALUE] for index in indices if index >= _FIRST_VALUE]
    return values if isinstance(field, Bag) else next(iter(values), None)
