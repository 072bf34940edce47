"""Requests and replies of the Open Inference Protocol, version 2, as JSON; and values of a request's tensors, from JSON
or from the bytes behind it, checked against shape and datatype.

Does not know which tensors exist. Raises InvalidRequest, which names the input at fault.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, Field, StringConstraints

from msd.contract.request import InvalidRequest, Wire, check_keys, validate

_LENGTH = struct.Struct("<I")
FLOATS, INTEGERS = ("FP32", "FP64"), ("INT64", "INT32")
NUMBERS = {"FP32": "f", "FP64": "d", "INT32": "i", "INT64": "q"}
"""The formats of `struct`, by datatype."""
HEADER = "Inference-Header-Content-Length"
_MAX_DIGITS = 9
_MAX_TENSORS = 1_000
_MAX_AXES = 8
Text = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Size = Annotated[int, Field(ge=0, le=2**31)]
RequestId = Annotated[str, StringConstraints(max_length=128, pattern=r"^[ -~]*$")]


class InputParameters(Wire):
    binary_data_size: Size | None = Field(
        default=None, description="Number of value bytes after the JSON, instead of `data`."
    )


class InferInput(Wire):
    """One tensor of a request."""

    name: Text
    shape: Annotated[list[Size], Field(min_length=1, max_length=_MAX_AXES, fail_fast=True)]
    datatype: Text
    parameters: InputParameters | None = None
    data: list[Any] | None = None


class OutputParameters(Wire):
    """Parameters of an output."""

    binary_data: bool | None = Field(
        default=None, description="Return values after the reply's JSON, instead of `data`."
    )


class WantedOutput(Wire):
    name: Text
    parameters: OutputParameters | None = None


class InferParameters(Wire):
    binary_data_output: bool | None = Field(default=None, description="Default of `binary_data` for all outputs.")
    timeout: Annotated[int, Field(ge=1, le=10**12)] | None = Field(
        default=None, description="Deadline in microseconds, if X-Deadline-Ms is absent."
    )


class InferRequest(Wire):
    """Input tensors, and the requested outputs; all if none are named."""

    id: RequestId | None = Field(default=None, description="Request ID, returned in the reply and used in the log.")
    parameters: InferParameters | None = None
    inputs: Annotated[list[InferInput], Field(min_length=1, max_length=_MAX_TENSORS, fail_fast=True)]
    outputs: Annotated[list[WantedOutput], Field(max_length=_MAX_TENSORS, fail_fast=True)] | None = None


class InferOutput(BaseModel):
    """One tensor of a reply."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | None = Field(default=None, description="`binary_data_size`, instead of `data`.")
    data: list[Any] | None = None


class InferReply(BaseModel):
    model_name: str
    model_version: str
    id: str
    parameters: dict[str, str] | None = Field(
        default=None,
        description="`degraded_user`, `degraded_candidates`, `degraded_values` and `degraded_history` (JSON) and"
        " `arm`, as in /v1/score; absent if not degraded.",
    )
    outputs: list[InferOutput]


class OipError(BaseModel):
    """The body of every reply under /v2 that is not a success."""

    error: str = Field(description="The input at fault, and what is wrong.")


class Parts(NamedTuple):
    """A request, and by input name the bytes of values that came behind the JSON."""

    request: InferRequest
    inputs: Mapping[str, InferInput]
    binary: Mapping[str, bytes]


def split_body(body: bytes, json_length: bytes | None) -> tuple[bytes, bytes | None]:
    """Return the JSON of a body, and the bytes behind it. `json_length`: from the header; None if everything is
    JSON."""
    if json_length is None:
        return body, None
    digits = json_length.strip()
    if not digits.isdigit() or len(digits) > _MAX_DIGITS or (length := int(digits)) > len(body):
        shown = json_length[:40].decode("latin-1")
        raise InvalidRequest(f"{shown!r} is not a number of bytes within the body, which has {len(body)}", HEADER)
    return body[:length], body[length:]


def read_parts(document: object, rest: bytes | None) -> Parts:
    """Read the JSON document of a body, and the bytes behind it."""
    request = validate(document, InferRequest, _check_width)
    behind = rest or b""
    inputs: dict[str, InferInput] = {}
    binary: dict[str, bytes] = {}
    place = 0
    for tensor in request.inputs:
        if tensor.name in inputs:
            raise InvalidRequest("is given twice", tensor.name)
        inputs[tensor.name] = tensor
        size = tensor.parameters.binary_data_size if tensor.parameters else None
        if (size is None) == (tensor.data is None):
            raise InvalidRequest("must have either data or parameters.binary_data_size", tensor.name)
        if size is None:
            continue
        if rest is None:
            raise InvalidRequest(f"has binary_data_size, which needs the header {HEADER}", tensor.name)
        if size > len(behind) - place:
            raise InvalidRequest(
                f"binary_data_size is {size}, and {len(behind) - place} bytes of the body are left for it", tensor.name
            )
        binary[tensor.name] = behind[place : place + size]
        place += size
    if place != len(behind):
        raise InvalidRequest(f"{len(behind)} bytes follow the JSON, and the inputs account for {place} of them", HEADER)
    return Parts(request, inputs, binary)


def _check_width(document: object) -> None:
    if not isinstance(document, dict):
        return
    within = {
        f"{part}.{place}": tensor
        for part in ("inputs", "outputs")
        if isinstance(listed := document.get(part), list)
        for place, tensor in enumerate(listed[:_MAX_TENSORS])
    }
    inner = {f"{place}.parameters": part.get("parameters") for place, part in within.items() if isinstance(part, dict)}
    check_keys({"": document, "parameters": document.get("parameters"), **within, **inner})


def values_of(parts: Parts, name: str) -> list[Any]:
    """Return an input's values, with one axis: strings, whole numbers or finite numbers, by datatype."""
    tensor, raw = parts.inputs[name], parts.binary.get(name)
    count = math.prod(tensor.shape)
    if tensor.datatype == "BYTES":
        return _listed_strings(tensor, count) if raw is None else _strings(raw, count, name)
    values = _numbers(_packed(tensor, count) if raw is None else raw, tensor.datatype, count, name)
    if tensor.datatype in FLOATS and not all(map(math.isfinite, values)):
        worst = next(place for place, value in enumerate(values) if not math.isfinite(value))
        raise InvalidRequest(f"value {worst} is {values[worst]}; numbers must be finite", name)
    return list(values)


def _strings(raw: bytes, count: int, name: str) -> list[str]:
    """Return strings, each preceded by its length in four bytes."""
    pieces: list[bytes] = []
    place, end = 0, len(raw)
    while len(pieces) < count and (start := place + _LENGTH.size) <= end:
        place = start + _LENGTH.unpack_from(raw, place)[0]
        pieces.append(raw[start:place])
    if len(pieces) != count or place != end:
        raise InvalidRequest(f"its {end} bytes are not {count} strings with their lengths before them", name)
    texts: list[str] = []
    try:
        texts.extend(map(bytes.decode, pieces))  # up to the first that is not UTF-8
    except UnicodeDecodeError:
        raise InvalidRequest(f"value {len(texts)} is not UTF-8", name) from None
    return texts


def _numbers(raw: bytes, datatype: str, count: int, name: str) -> tuple[Any, ...]:
    wanted = count * struct.calcsize(f"<{NUMBERS[datatype]}")
    if len(raw) != wanted:
        raise InvalidRequest(f"has {len(raw)} bytes; {count} values of {datatype} are {wanted}", name)
    return struct.unpack(f"<{count}{NUMBERS[datatype]}", raw)


def _listed(tensor: InferInput, count: int, types: Sequence[type], what: str) -> list[Any]:
    values = tensor.data or []
    if len(values) != count:
        raise InvalidRequest(f"data has {len(values)} values, and the shape {tensor.shape} is of {count}", tensor.name)
    if not set(map(type, values)) <= set(types):
        bad = next(number for number, value in enumerate(values) if type(value) not in types)
        raise InvalidRequest(f"value {bad} is not {what}, as {tensor.datatype} has them", tensor.name)
    return values


def _listed_strings(tensor: InferInput, count: int) -> list[str]:
    values: list[str] = _listed(tensor, count, (str,), "a string")
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        raise InvalidRequest("a value has half of a surrogate pair, which UTF-8 cannot write", tensor.name) from None
    return values


def _packed(tensor: InferInput, count: int) -> bytes:
    is_float = tensor.datatype in FLOATS
    values = _listed(tensor, count, (int, float) if is_float else (int,), "a number" if is_float else "a whole number")
    try:
        return struct.pack(f"<{count}{NUMBERS[tensor.datatype]}", *values)
    except (OverflowError, struct.error):
        raise InvalidRequest(f"a value is beyond what {tensor.datatype} holds", tensor.name) from None
