"""Scores as tensors: the available and the requested outputs, and the body with them, as JSON or bytes. Does not know
where scores come from.
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from msd.contract.request import CheckedRequest, InvalidRequest
from service.routes.oip.tensors import HEADER, InferRequest
from service.scoring.answer import Headers, Scored
from service.scoring.reply import served_columns

ID, ECPM = "id", "ecpm"
_LENGTH = struct.Struct("<I")
_JSON, _BYTES = b"application/json", b"application/octet-stream"
_SHOWN = 80


def outputs_of(heads: Sequence[str]) -> list[tuple[str, str]]:
    """Return names and datatypes of all outputs of a model with these heads."""
    return [(ID, "BYTES"), *((head, "FP32") for head in heads), (ECPM, "FP64")]


def _wanted(request: InferRequest, available: Sequence[str]) -> dict[str, bool]:
    """Return the requested outputs, or all, and whether each is sent as bytes."""
    by_default = bool(request.parameters and request.parameters.binary_data_output)
    if not request.outputs:
        return dict.fromkeys(available, by_default)
    wanted: dict[str, bool] = {}
    for output in request.outputs:
        if output.name not in available:
            raise InvalidRequest(f"unknown output; expected {', '.join(available)}", output.name[:_SHOWN])
        if output.name in wanted:
            raise InvalidRequest("is requested twice", output.name)
        is_binary = output.parameters.binary_data if output.parameters else None
        wanted[output.name] = by_default if is_binary is None else is_binary
    return wanted


def encode_reply(
    head: dict[str, Any], request: InferRequest, checked: CheckedRequest, scored: Scored
) -> tuple[bytes, Headers]:
    """Return a reply's body, and the headers that describe it; `head` is everything except its outputs.

    Raises InvalidRequest for unknown outputs. There is an eCPM if every candidate has a bid.
    """
    columns, _ = served_columns(checked, scored)
    outputs, pieces = [], []
    for name, is_binary in _wanted(request, list(columns)).items():
        values = columns[name]
        if name == ECPM and not np.isfinite(values).all():
            if request.outputs:
                raise InvalidRequest("needs a bid for every candidate", ECPM)
            continue
        datatype = "BYTES" if name == ID else "FP64" if name == ECPM else "FP32"
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [len(values)]}
        if is_binary:
            pieces.append(_bytes_of(values))
            output["parameters"] = {"binary_data_size": len(pieces[-1])}
        else:
            output["data"] = values
        outputs.append(output)
    text = orjson.dumps({**head, "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    if not pieces:
        return text, [(b"content-type", _JSON)]
    return b"".join((text, *pieces)), [(b"content-type", _BYTES), (HEADER.lower().encode(), b"%d" % len(text))]


def _bytes_of(values: "list[str] | np.ndarray[Any, Any]") -> bytes:
    if isinstance(values, list):
        return b"".join(_LENGTH.pack(len(text)) + text for text in (value.encode() for value in values))
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
