"""Goldens: real requests with their rows and expected scores."""

import base64
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from msd.contract.assemble import Assembled, Tensors, assemble, wanted_items
from msd.contract.errors import BundleError, first_fault
from msd.contract.files import atomic_file
from msd.contract.request import RequestError, parse_request
from msd.contract.rows import RowCodec
from msd.contract.schema import FeatureSchema


class Golden(BaseModel):
    """One request in its form on the wire (`at` always given), rows in base64 by id, and [N] scores by head."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request: dict[str, Any]
    user: str | None
    items: dict[str, str]
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


def repeated(schema: FeatureSchema, tensors: Tensors, count: int) -> Tensors:
    """Return the tensors with the candidates repeated up to a number."""
    sides = {spec.name: spec.side for spec in schema.tensors}
    return {
        name: np.resize(tensor, (count, *tensor.shape[1:])) if sides[name] == "item" else tensor
        for name, tensor in tensors.items()
    }


def golden_tensors(schema: FeatureSchema, users: RowCodec, items: RowCodec, golden: Golden) -> Assembled:
    """Return the tensors of a golden, made from its own rows as for requests."""
    try:
        request = parse_request(json.dumps(golden.request).encode(), schema)
    except RequestError as error:
        raise BundleError(f"a golden's request is not valid: {error.field}: {error}") from None
    if request.at is None:
        raise BundleError("a golden's request has no `at`")
    user = users.unpack([_decode(golden.user)])
    rows = items.unpack([_decode(golden.items.get(item_id)) for item_id in wanted_items(request, user)])
    return assemble(schema, request, request.at, user, rows)


def encode_row(row: bytes) -> str:
    return base64.b64encode(row).decode()


def _decode(row: str | None) -> bytes | None:
    try:
        return None if row is None else base64.b64decode(row, validate=True)
    except ValueError:
        raise BundleError("a golden's row is not base64") from None
