"""Goldens: real requests with their rows, the live events since, and expected scores."""

import base64
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from msd.contract.errors import BundleError, first_fault
from msd.contract.files import atomic_file
from msd.contract.request import RequestError, ScoreRequest, parse_request
from msd.contract.rows import RowCodec, Rows
from msd.contract.schema import FeatureSchema


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


def golden_request(schema: FeatureSchema, golden: Golden) -> ScoreRequest:
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


def encode_row(row: bytes) -> str:
    return base64.b64encode(row).decode()


def _decode(row: str | None) -> bytes | None:
    try:
        return None if row is None else base64.b64decode(row, validate=True)
    except ValueError:
        raise BundleError("has a row that is not base64") from None
