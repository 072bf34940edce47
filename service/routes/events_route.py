"""POST /v1/events: its wire format, which the request log keeps; and the endpoint, which answers once events are
durable. Errors are raised; `AccessMiddleware` answers them.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Literal

import orjson
from pydantic import BaseModel, Field, ValidationInfo, field_validator
from starlette.types import Receive, Scope, Send

from msd.contract.request import (
    ANONYMOUS,
    At,
    Currency,
    Id,
    InvalidRequest,
    Position,
    RequestError,
    Wire,
    Worth,
    check_keys,
    load_json,
    validate,
)
from msd.contract.rows import RowSide
from msd.contract.state import state_rules
from service.deployment.readiness import Readiness
from service.errors import EventsUnavailable, StoreError
from service.http.access import send_reply
from service.http.body import read_json_body
from service.http.json_parser import JsonParser
from service.limits import MAX_EVENTS
from service.live.store import BatchOutcome, LiveBatch, LiveError, LiveEvent, LiveStore, rows_of
from service.request_log.request_log import RequestLog
from service.scoring.deployment import Serving
from service.scoring.model import Model
from service.settings import Settings
from service.telemetry.metrics import Metrics

PATH = "/v1/events"
MAX_AHEAD_S = 60.0
"""Maximum seconds by which an event may be ahead of the service's clock; later ones count as this much ahead."""
# Rows that are read at once: a history is unpacked within .1 ms.
_ROWS_TOGETHER = 50


class TooManyEvents(RequestError):
    code = "too_many_events"


class WireEvent(Wire):
    """One impression of an item to a user, one click, or one conversion of a click. None implies or needs another."""

    event_id: Id = Field(description="Idempotency key: the first event of a type and ID counts.")
    type: Literal["impression", "click", "conversion"] = Field(
        description="A conversion changes no live counts: it is logged, for `msd join`."
    )
    user_id: Id | None = Field(description="null: an anonymous user; the event counts for its item alone.")
    item_id: Id
    at: At | None = Field(default=None, description="Time of the event in Unix seconds; the service's clock if absent.")
    request_id: Id | None = Field(default=None, description="Request ID of the scoring request that led to it.")
    position: Position | None = Field(
        default=None, description="Of an impression: the place of the page where the item was shown; the first is 1."
    )
    value: Worth | None = Field(default=None, description="Of a conversion: what it is worth, in units of `currency`.")
    currency: Currency | None = Field(default=None, description="Of a conversion's value: its code by ISO 4217.")

    @field_validator("position", "value", "currency")
    @classmethod
    def _of_its_type(cls, given: object, info: ValidationInfo) -> object:
        own = "impression" if info.field_name == "position" else "conversion"
        if given is not None and info.data.get("type", own) != own:
            raise ValueError(f"belongs to {own}s alone: send it with the {own}")
        return given


class EventBatch(Wire):
    """Events in any order; accepted or rejected as a whole."""

    events: Annotated[list[WireEvent], Field(min_length=1, fail_fast=True)]


class EventsReply(BaseModel):
    """The reply to a batch, sent once its events are durable."""

    accepted: int = Field(description="Events counted, and conversions logged.")
    duplicates: int = Field(
        description="Events that were counted before, by type and ID; of conversions, `msd join` tells."
    )


class EventsRoute:
    """The endpoint. States start from the rows of the first arm's model."""

    def __init__(
        self,
        settings: Settings,
        serving: Serving,
        store: LiveStore,
        readiness: Readiness,
        metrics: Metrics,
        request_log: RequestLog | None,
    ) -> None:
        self._parser = JsonParser(settings.max_candidates)
        self._settings = settings
        self._serving = serving
        self._store = store
        self._readiness = readiness
        self._metrics = metrics
        self._request_log = request_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_json_body(scope, receive)
        self._readiness.check()
        received = await self._parser.parse(body, parse_events)
        if self._request_log is None:
            for place, event in enumerate(received):
                if event.type == "conversion":
                    raise InvalidRequest(
                        "is a conversion, but this service has no request log to store it: set MSD_LOG_DIR",
                        f"events.{place}.type",
                    )
        events = self._settled(received, time.time())
        model = self._serving.current.champion
        rows: dict[RowSide, dict[str, bytes]] = {
            "user": await self._rows(model, "user", [event.user_id for event in events if event.user_id]),
            "item": await self._rows(model, "item", [event.item_id for event in events]),
        }
        accepted = conversions = len(received) - len(events)
        duplicates = 0
        if events:
            batch = LiveBatch(events, rows, state_rules(model.schema), self._settings.live_lag_seconds)
            try:
                outcome = await self._store.add(batch)
            except LiveError as error:
                raise EventsUnavailable(str(error)) from error
            self._count(batch, outcome)
            accepted, duplicates = accepted + outcome.accepted, outcome.duplicates
        if self._request_log is not None and not self._request_log.events(body, len(received)) and conversions:
            raise EventsUnavailable("the request log has no room for conversions; send the batch again")
        self._metrics.events_noted["conversion"].inc(conversions)
        reply = orjson.dumps({"accepted": accepted, "duplicates": duplicates})
        await send_reply(send, 202, [(b"content-type", b"application/json")], reply)

    def _settled(self, events: Sequence[WireEvent], now: float) -> list[LiveEvent]:
        """Return impressions and clicks with a time, limited to the near future."""
        latest = now + MAX_AHEAD_S
        if ahead := sum(event.at is not None and event.at > latest for event in events):
            self._metrics.events_noted["ahead"].inc(ahead)
        return [
            LiveEvent(
                event.event_id,
                event.type == "click",
                event.user_id or ANONYMOUS,
                event.item_id,
                now if event.at is None else min(event.at, latest),
            )
            for event in events
            if event.type != "conversion"
        ]

    async def _rows(self, model: Model, side: RowSide, ids: Sequence[str]) -> dict[str, bytes]:
        """Return the rows by ID, packed. Without them, a state would wrongly start empty."""
        distinct = list(dict.fromkeys(ids))
        rows: dict[str, bytes] = {}
        try:
            for start in range(0, len(distinct), _ROWS_TOGETHER):
                some = distinct[start : start + _ROWS_TOGETHER]
                await asyncio.sleep(0)  # a file's rows are read at once
                rows |= rows_of(some, await model.store.get(side, some))
        except StoreError as error:
            self._metrics.store_errors.inc()
            raise EventsUnavailable(str(error)) from error
        return rows

    def _count(self, batch: LiveBatch, outcome: BatchOutcome) -> None:
        metrics = self._metrics
        metrics.events["accepted"].inc(outcome.accepted)
        metrics.events["duplicate"].inc(outcome.duplicates)
        noted = metrics.events_noted
        noted["late"].inc(outcome.late)
        noted["in_row"].inc(outcome.in_row)
        noted["unknown_user"].inc(
            sum(bool(event.user_id) and event.user_id not in batch.rows["user"] for event in batch.events)
        )
        noted["unknown_item"].inc(sum(event.item_id not in batch.rows["item"] for event in batch.events))
        metrics.damaged_states.inc(outcome.damaged)
        metrics.newest_event.set(outcome.newest_at)


def parse_events(body: bytes, max_events: int = MAX_EVENTS) -> list[WireEvent]:
    """Parse the events in a JSON body. Raises the RequestError that says what is wrong, and where."""
    return validate(load_json(body), EventBatch, lambda it: _check_width(it, max_events)).events


def _check_width(document: object, max_events: int) -> None:
    """Refuse too many events, and ones with too many keys: finding a fault in each would take long."""
    if isinstance(document, dict):
        events = document.get("events")
        within = events if isinstance(events, list) else []
        _check_count(within, max_events)
        check_keys({"": document, **{f"events.{place}": event for place, event in enumerate(within)}})


def _check_count(events: Sequence[object], max_events: int) -> None:
    if len(events) > max_events:
        raise TooManyEvents(f"{len(events)} events; the limit is {max_events}: split the batch", "events")
