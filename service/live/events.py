"""The wire format of events, which the request log keeps. Does not know HTTP, nor where states are kept."""

from typing import Annotated, Literal

from pydantic import Field, ValidationError

from msd.contract.request import At, Id, RequestError, Wire, check_keys, has_no_key_twice, parse_thoroughly

MAX_EVENTS = 1_000


class TooManyEvents(RequestError):
    """More events than one batch may have."""

    code = "too_many_events"


class WireEvent(Wire):
    """One impression of an item to a user, one click, or one conversion of a click. None implies or needs another."""

    event_id: Id = Field(description="Idempotency key: the first event of a type and ID counts.")
    type: Literal["impression", "click", "conversion"] = Field(
        description="A conversion changes no live counts: it is logged, for `msd join`."
    )
    user_id: Id
    item_id: Id
    at: At | None = Field(default=None, description="Time of the event in Unix seconds; the service's clock if absent.")
    request_id: Id | None = Field(default=None, description="Request ID of the scoring request that led to it.")


class EventBatch(Wire):
    """Events in any order; accepted or rejected as a whole."""

    events: Annotated[list[WireEvent], Field(min_length=1, fail_fast=True)]


def parse_events(body: bytes, max_events: int = MAX_EVENTS) -> list[WireEvent]:
    """Parse the events in a JSON body. Raises the RequestError that says what is wrong, and where."""
    try:
        batch = EventBatch.model_validate_json(body)
        if has_no_key_twice(body, 1 + sum(len(event.model_fields_set) for event in batch.events)):
            return _bounded(batch, max_events)
    except ValidationError:
        pass
    return _bounded(parse_thoroughly(body, EventBatch, _check_width), max_events)


def _check_width(document: object) -> None:
    if isinstance(document, dict):
        events = document.get("events")
        within = events if isinstance(events, list) else []
        check_keys({"": document, **{f"events.{place}": event for place, event in enumerate(within)}})


def _bounded(batch: EventBatch, max_events: int) -> list[WireEvent]:
    if len(batch.events) > max_events:
        raise TooManyEvents(f"{len(batch.events)} events; the limit is {max_events}: split the batch", "events")
    return batch.events
