"""Scores as tensors: the available and the requested outputs, and the body with them, as JSON or bytes. Does not know
where scores come from.
"""

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson

from msd.contract.request import CheckedRequest, InvalidRequest
from service.routes.oip.form import InferRequest
from service.routes.oip.tensors import HEADER
from service.scoring.answer import Scored
from service.scoring.reply import served_columns

ID, ECPM = "id", "ecpm"
_LENGTH = struct.Struct("<I")
_JSON, _BYTES = b"application/json", b"application/octet-stream"
_SHOWN = 80


class _Wanted(NamedTuple):
    """A requested output, and whether as bytes."""

    name: str
    is_binary: bool


def outputs_of(heads: Sequence[str]) -> list[tuple[str, str]]:
    """Return names and datatypes of all outputs of a model with these heads."""
    return [(ID, "BYTES"), *((head, "FP32") for head in heads), (ECPM, "FP64")]


def _wanted(request: InferRequest, there: Sequence[str]) -> list[_Wanted]:
    """Return the requested outputs, or all."""
    by_default = bool(request.parameters and request.parameters.binary_data_output)
    if not request.outputs:
        return [_Wanted(name, by_default) for name in there]
    wanted: dict[str, _Wanted] = {}
    for one in request.outputs:
        if one.name not in there:
            raise InvalidRequest(f"unknown output; expected {', '.join(there)}", one.name[:_SHOWN])
        if one.name in wanted:
            raise InvalidRequest("is requested twice", one.name)
        said = one.parameters.binary_data if one.parameters else None
        wanted[one.name] = _Wanted(one.name, by_default if said is None else said)
    return list(wanted.values())


class Encoded(NamedTuple):
    """A reply's body, and the headers that describe it."""

    body: bytes
    headers: list[tuple[bytes, bytes]]


def encode_reply(head: dict[str, Any], request: InferRequest, checked: CheckedRequest, scored: Scored) -> Encoded:
    """Encode a reply; `head` is everything except its outputs.

    Raises InvalidRequest for unknown outputs. There is an eCPM if every candidate has a bid.
    """
    columns, _ = served_columns(checked, scored)
    outputs, pieces = [], []
    for one in _wanted(request, list(columns)):
        values = columns[one.name]
        if one.name == ECPM and not np.isfinite(values).all():
            if request.outputs:
                raise InvalidRequest("needs a bid for every candidate", ECPM)
            continue
        datatype = "BYTES" if one.name == ID else "FP64" if one.name == ECPM else "FP32"
        output: dict[str, Any] = {"name": one.name, "datatype": datatype, "shape": [len(values)]}
        if one.is_binary:
            pieces.append(_bytes_of(values))
            output["parameters"] = {"binary_data_size": len(pieces[-1])}
        else:
            output["data"] = values
        outputs.append(output)
    text = orjson.dumps({**head, "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    if not pieces:
        return Encoded(text, [(b"content-type", _JSON)])
    return Encoded(
        b"".join((text, *pieces)),
        [(b"content-type", _BYTES), (HEADER.lower().encode(), b"%d" % len(text))],
    )


def _bytes_of(values: "list[str] | np.ndarray[Any, Any]") -> bytes:
    if isinstance(values, list):
        return b"".join(_LENGTH.pack(len(text)) + text for text in (value.encode() for value in values))
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
