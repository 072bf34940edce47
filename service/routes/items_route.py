"""/v1/items: the live catalogue's wire format, and its routes. Errors are raised; `AccessMiddleware` answers them."""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import orjson
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field, StringConstraints

from msd.contract.request import (
    At,
    Features,
    Id,
    InvalidRequest,
    RequestError,
    Wire,
    check_features,
    check_keys,
    load_json,
    validate,
)
from msd.contract.rows import has_semantic, is_described
from msd.contract.schema import FeatureSchema
from msd.contract.tensors import Rung
from service.catalogue.catalogue import Catalogue
from service.catalogue.item import CatalogueError, CatalogueFull, Edit, Fate, Item, Knowledge, Text
from service.deployment.readiness import Readiness
from service.errors import DESCRIPTIONS, CatalogueUnavailable, ErrorReply, NoRoom, StoreError, UnknownItem
from service.http.body import read_json_body
from service.http.json_parser import JsonParser
from service.limits import MAX_ITEM_BYTES, MAX_ITEMS
from service.live.live_state import unpack_counts
from service.live.store import LiveError, LiveStore
from service.scoring.deployment import Serving

PATH = "/v1/items"
_PARTS_PER_ITEM = 10
_MAX_WAITING, _TOGETHER = 10_000, 500
_MAX_LISTED = 100
"""Items in a reply, which may have megabytes."""
_BODY = {
    "required": True,
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ItemBatch"}}},
}
_Result = TypeVar("_Result")
Version = Annotated[float, Field(allow_inf_nan=False)]


class TooManyItems(RequestError):
    code = "too_many_items"


class WireItem(Wire):
    """An upsert of an item; knowledge for the one that is there, if there is nothing else but the version; or a
    removal."""

    id: Id
    features: Features | None = None
    text: Text | None = Field(
        default=None, description="Built from title and copy by the bundle's template (`item_text` of GET /v1/model)."
    )
    knowledge: Knowledge | None = Field(
        default=None, description="null or absent: an upsert keeps what is there, unless it changes the text."
    )
    expires_at: At | None = Field(default=None, description="Unix seconds from which on the item is unknown.")
    if_newer_than: Version | None = Field(
        default=None,
        description="The version of what is sent: any number that grows. It is taken only if the item's version is"
        " less. null or absent: always taken; the item's version stays.",
    )
    text_sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")] | None = Field(
        default=None, description="Of knowledge alone: the SHA-256 of the text that it is about; of another, refused."
    )
    remove: bool = False

    def edit(self) -> Edit:
        """Return what it asks for. Raises InvalidRequest."""
        # null says nothing: a client may send all that it leaves out as null.
        described = any(one is not None for one in (self.features, self.text, self.expires_at))
        if self.remove:
            if described or self.knowledge:
                raise InvalidRequest("removes the item and describes it: send one of both", "remove")
            return Edit(self.id, "remove", version=self.if_newer_than)
        words = self.knowledge
        if not described:
            if words is None:
                raise InvalidRequest("says nothing: send features, text, knowledge or remove")
            return Edit(self.id, "teach", knowledge=words, version=self.if_newer_than, text_sha256=self.text_sha256)
        if self.text_sha256 is not None:
            raise InvalidRequest("belongs to knowledge alone: send it without a description", "text_sha256")
        features = {name: value for name, value in (self.features or {}).items() if value is not None}
        text = None if self.text is None or not self.text or self.text.isspace() else self.text
        return Edit(self.id, "describe", features, text, words, self.expires_at, self.if_newer_than)


class ItemBatch(Wire):
    """Items of distinct IDs; accepted or refused as a whole."""

    items: Annotated[list[WireItem], Field(min_length=1, fail_fast=True)]


class ItemFate(BaseModel):
    """The outcome of one item of a batch."""

    id: str
    fate: Fate = Field(
        description="accepted; unchanged: it was like that; older: the version that is there is as new; removed;"
        " expired: it had expired when it came, so it is removed; absent: knowledge of an item that is not there;"
        " outdated: knowledge of another text."
    )
    unknown: list[str] = Field(description="Features with values that the bundle does not know; they count as unknown.")


class ItemsReply(BaseModel):
    """The reply to a batch, sent once all of it is durable."""

    items: list[ItemFate] = Field(description="In the order of the batch.")


class ItemReport(BaseModel):
    """What is known of an item, since when, and from where. Times are Unix seconds."""

    id: str
    known_from: list[Literal["export", "catalogue", "teacher"]]
    exported_at: float | None = Field(default=None, description="Time up to which the export's counts are complete.")
    given_at: float | None = Field(default=None, description="When the catalogue was first given it.")
    changed_at: float | None = None
    features: dict[str, Any] = {}
    text: str | None = None
    knowledge: Knowledge | None = None
    knowledge_at: float | None = None
    expires_at: float | None = None
    version: float | None = None
    removed_at: float | None = None
    scored_as: Rung | None = Field(default=None, description="As in `degraded`; null: nothing is missing.")
    impressions: float | None = Field(default=None, description="So far, faded with time; null without live counts.")
    clicks: float | None = None


class ItemList(BaseModel):
    """Items, and what to send as `after` for more; null at the end."""

    items: list[ItemReport]
    next: int | None = None


def items_routes(serving: Serving, catalogue: Catalogue, live: LiveStore | None, readiness: Readiness) -> APIRouter:
    """Return the routes. Access is checked before."""
    router = APIRouter(prefix=PATH, tags=["items"])
    parser = JsonParser(_PARTS_PER_ITEM * MAX_ITEMS)
    reader = _Reader(serving, catalogue, live)
    refusals: dict[int | str, dict[str, Any]] = _errors(503)

    @router.post(
        "",
        status_code=202,
        summary="Describe, teach about or remove up to 1,000 items",
        description="Accepted or refused as a whole, and answered once it is durable. Send a batch without an answer"
        " again.",
        responses=refusals | _errors(400, 408, 413, 415, 422, 507),
        openapi_extra={"requestBody": _BODY},
    )
    async def upsert(request: Request) -> ItemsReply:
        body = await read_json_body(request.scope, request.receive)
        readiness.check()
        schema = serving.current.champion.schema
        edits = await parser.parse(body, lambda one: parse_items(one, schema))
        fates = await _possible(catalogue.apply(edits))
        return ItemsReply(
            items=[
                ItemFate(id=edit.id, fate=fate, unknown=unknown_values(schema, edit.features))
                for edit, fate in zip(edits, fates, strict=True)
            ]
        )

    @router.get("", summary="List items", responses=refusals | _errors(422), response_model_exclude_none=True)
    async def listed(
        waiting: Annotated[
            Literal["knowledge"] | None, Query(description="Those with a text and no knowledge, most shown first.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=_MAX_LISTED)] = _MAX_LISTED,
        after: Annotated[int, Query(ge=0)] = 0,
    ) -> ItemList:
        if waiting is not None:
            return ItemList(items=await _possible(reader.waiting(limit)))
        found = await _possible(catalogue.listed(after, limit))
        reports = await _possible(reader.reports([item.id for _, item in found]))
        return ItemList(items=reports, next=found[-1][0] if len(found) == limit else None)

    @router.get(
        "/{item_id:path}",
        summary="Say what is known of an item",
        responses=refusals | _errors(404),
        response_model_exclude_none=True,
    )
    async def read(item_id: str) -> ItemReport:
        (report,) = await _possible(reader.reports([item_id]))
        if not report.known_from and report.removed_at is None:
            raise UnknownItem(f"nothing is known of the item {item_id[:60]!r}")
        return report

    @router.delete("/{item_id:path}", status_code=202, summary="Remove an item", responses=refusals | _errors(422, 507))
    async def remove(item_id: str) -> ItemFate:
        edit = validate({"id": item_id, "remove": True}, WireItem).edit()
        (fate,) = await _possible(catalogue.apply([edit]))
        return ItemFate(id=item_id, fate=fate, unknown=[])

    return router


def parse_items(body: bytes, schema: FeatureSchema) -> list[Edit]:
    """Return what the items in a JSON body ask for; their values fit the schema. Raises the RequestError that says what
    is wrong, and where."""
    items = validate(load_json(body), ItemBatch, _check_width).items
    seen: dict[str, int] = {}
    edits = []
    for place, item in enumerate(items):
        path = f"items.{place}"
        if item.id in seen:
            raise InvalidRequest(f"is the id of items.{seen[item.id]} too; a batch has each once", f"{path}.id")
        seen[item.id] = place
        check_features(schema, "item", item.features, f"{path}.features")
        try:
            edits.append(item.edit())
            size = len(orjson.dumps(edits[-1]._asdict(), default=Knowledge.model_dump))
        except TypeError:
            raise InvalidRequest("holds a character that is half of one (a lone surrogate)", path) from None
        except InvalidRequest as error:
            raise InvalidRequest(error.message, f"{path}.{error.field}" if error.field else path) from None
        if size > MAX_ITEM_BYTES:
            raise InvalidRequest(f"has {size:,} bytes; an item may have {MAX_ITEM_BYTES:,}", path)
    return edits


def unknown_values(schema: FeatureSchema, features: Mapping[str, Any]) -> list[str]:
    """Return the features with a value that is not in their vocabulary."""
    found = []
    for name, value in features.items():
        words = getattr(schema.settable["item"][name], "vocabulary", ())
        given = {str(word) for word in (value if isinstance(value, list) else [value])}
        if words and not given <= set(words):
            found.append(name)
    return found


def _check_width(document: object) -> None:
    """Refuse too many items, and ones with too many keys: finding a fault in each would take long."""
    items = document.get("items") if isinstance(document, dict) else None
    within = items if isinstance(items, list) else []
    if len(within) > MAX_ITEMS:
        raise TooManyItems(f"{len(within)} items; the limit is {MAX_ITEMS}: split the batch", "items")
    check_keys({"": document, **{f"items.{place}": item for place, item in enumerate(within)}})


class _Reader:
    """Says what is known of items."""

    def __init__(self, serving: Serving, catalogue: Catalogue, live: LiveStore | None) -> None:
        self._serving, self._catalogue, self._live = serving, catalogue, live

    async def reports(self, ids: Sequence[str]) -> list[ItemReport]:
        if not ids:
            return []
        store = self._serving.current.champion.store
        items, rows = await self._catalogue.items(ids), await store.get("item", ids)
        exported = store.exported(ids) or rows
        counts = await self._counts(ids)
        reports = []
        for place, (item_id, item) in enumerate(zip(ids, items, strict=True)):
            row = rows.records[place : place + 1]
            report = _report(item_id, item) | counts[place]
            as_of = float(exported.records["as_of"][place]) if exported.found[place] else 0.0
            if as_of:
                report["known_from"], report["exported_at"] = ["export", *report["known_from"]], as_of
            if not rows.found[place]:
                report["scored_as"] = "prior"
            elif is_described(row)[0]:
                report["scored_as"] = "encoded" if has_semantic(row)[0] else "category_prior"
            reports.append(ItemReport(**report))
        return reports

    async def waiting(self, most: int) -> list[ItemReport]:
        ids = await self._catalogue.waiting(_MAX_WAITING)
        counts: dict[str, dict[str, float]] = {}
        for start in range(0, len(ids), _TOGETHER):
            some = ids[start : start + _TOGETHER]
            counts |= zip(some, await self._counts(some), strict=True)
        first = sorted(counts, key=lambda item_id: -counts[item_id].get("impressions", 0.0))[:most]
        items = zip(first, await self._catalogue.items(first), strict=True)
        return [ItemReport(**_report(one, item) | counts[one]) for one, item in items if item is not None]

    async def _counts(self, ids: Sequence[str]) -> list[dict[str, float]]:
        """Return live counts, as far as there are some."""
        if self._live is None or not ids:
            return [{} for _ in ids]
        counts = unpack_counts((await self._live.get("item", ids)).packed)
        columns = counts.found.tolist(), counts.impressions.tolist(), counts.clicks.tolist()
        return [
            {"impressions": shown if found else 0.0, "clicks": clicked if found else 0.0}
            for found, shown, clicked in zip(*columns, strict=True)
        ]


def _report(item_id: str, item: Item | None) -> dict[str, Any]:
    if item is None:
        return {"id": item_id, "known_from": []}
    found = item._asdict()
    taught = found.pop("knowledge_from") == "teacher"
    del found["text_at"]
    sources = [] if item.removed_at is not None else ["catalogue", *(["teacher"] if taught else [])]
    return {**found, "known_from": sources}


async def _possible(work: Awaitable[_Result]) -> _Result:
    try:
        return await work
    except CatalogueFull as error:
        raise NoRoom(str(error)) from error
    except (CatalogueError, LiveError, StoreError) as error:
        raise CatalogueUnavailable(str(error)) from error


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorReply, "description": DESCRIPTIONS[status]} for status in statuses}
