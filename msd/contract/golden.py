"""Goldens: real requests with their rows, the live events since, and expected scores."""

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from msd.contract.assemble import Tensors, assemble, wanted_items
from msd.contract.errors import BundleError, first_fault
from msd.contract.files import atomic_file
from msd.contract.request import CheckedRequest, RequestError, parse_request
from msd.contract.rows import RowCodec, Rows
from msd.contract.schema import FeatureSchema
from msd.contract.state import EntityState, Event, StateRule, advance, fold, state_rules

_COUNTS = ("impressions", "clicks", "as_of")


class GoldenEvent(BaseModel):
    """An impression of an item, or a click on it, by the golden's user, later than its rows."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    item_id: str
    at: float
    is_click: bool


class Golden(BaseModel):
    """One request in its form on the wire (`at` always given), rows in base64 by id, live events that end shortly
    before the request, and [N] scores by head."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request: dict[str, Any]
    user: str | None
    items: dict[str, str]
    events: tuple[GoldenEvent, ...] = ()
    expected: dict[str, list[float]]


def write_goldens(path: Path, goldens: Iterable[Golden]) -> None:
    """Write one JSON object per line."""
    with atomic_file(path) as file:
        for golden in goldens:
            file.write(golden.model_dump_json().encode() + b"\n")


def read_goldens(path: Path) -> Iterator[Golden]:
    """Yield the goldens of a file. Raises BundleError naming an invalid line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield Golden.model_validate_json(line)
            except ValidationError as error:
                raise BundleError(f"{path}:{number}: not a golden: {first_fault(error)}") from None


def golden_request(schema: FeatureSchema, golden: Golden) -> CheckedRequest:
    """Return a golden's parsed request. Raises BundleError if it is invalid, or has no time."""
    try:
        request = parse_request(json.dumps(golden.request).encode(), schema)
    except RequestError as error:
        raise BundleError(f"has no valid request: {error.field}: {error}") from None
    if request.at is None:
        raise BundleError("has a request without `at`")
    return request


def golden_rows(users: RowCodec, items: RowCodec, golden: Golden) -> tuple[Rows, list[str], Rows]:
    """Return the row of a golden's user [1], the IDs of its items, and their rows."""
    user = users.unpack([_decode(golden.user)])
    return user, list(golden.items), items.unpack([_decode(row) for row in golden.items.values()])


def golden_tensors(schema: FeatureSchema, users: RowCodec, items: RowCodec, golden: Golden) -> Tensors:
    """Return the reference tensors of a golden: what the model is expected to see.

    They are made as at export, of rows that hold the live events as if these had been exported.
    """
    request = golden_request(schema, golden)
    assert request.at is not None, "a golden has a time"
    user = users.unpack([_decode(golden.user)])
    rules = state_rules(schema)
    if golden.events:
        of_user = [(event, event.item_id) for event in golden.events]
        user = _as_exported(user, [of_user], rules["user"], request.at)
    rows = items.unpack([_decode(golden.items.get(item_id)) for item_id in wanted_items(request, user)])
    if golden.events:
        own = [[(event, None) for event in golden.events if event.item_id == item_id] for item_id in request.ids]
        rows = _as_exported(rows, own, rules["item"], request.at)
    return assemble(schema, request, request.at, user, rows)


def _as_exported(
    rows: Rows, events: Sequence[Sequence[tuple[GoldenEvent, str | None]]], rule: StateRule, at: float
) -> Rows:
    """Return rows whose first ones, one per sequence of events with the items to remember, are complete up to `at`."""
    records, histories = rows.records.copy(), list(rows.histories)
    for place, own in enumerate(events):
        history = tuple(sorted(histories[place])) if histories else ()
        impressions, clicks, as_of = (float(records[name][place]) for name in _COUNTS)
        state = EntityState(impressions, clicks, as_of, history)
        for event, item_id in own:
            if event.at <= records["as_of"][place]:
                continue  # the row includes it
            state = fold(rule, state, Event(event.at, event.is_click, item_id, not event.is_click))
        state = advance(rule, state, at)
        for name in _COUNTS:
            records[name][place] = getattr(state, name)
        if histories and own:
            histories[place] = state.history
    return rows._replace(records=records, histories=tuple(histories))


def encode_row(row: bytes) -> str:
    return base64.b64encode(row).decode()


def _decode(row: str | None) -> bytes | None:
    try:
        return None if row is None else base64.b64decode(row, validate=True)
    except ValueError:
        raise BundleError("has a row that is not base64") from None
