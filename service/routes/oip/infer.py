"""POST /v2/models/msd/infer: converts tensors to a scoring request, which is scored like any other, and its
reply to tensors.
"""

import re
import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import orjson
from starlette.exceptions import HTTPException

from msd.contract.request import InvalidRequest
from service.http.exchange import OIP
from service.json_parser import JsonParser
from service.limits import MAX_DEADLINE_MS
from service.routes.oip.inputs import WHOLE, scoring_body, user_of
from service.routes.oip.model_routes import ECPM, ID, MODEL, check_served
from service.routes.oip.tensors import HEADER, NUMBERS, InferRequest, Parts, read_parts, split_body
from service.scoring.answer import Headers, Translated
from service.scoring.deployment import Deployment

INFER_PATHS = (f"{OIP}/models/{{name}}/infer", f"{OIP}/models/{{name}}/versions/{{version}}/infer")
_PATH = re.compile(rf"{OIP}/models/([^/]+)(?:/versions/([^/]+))?/infer")
_HEADER = HEADER.lower().encode()
_LENGTH = struct.Struct("<I")
_JSON, _BYTES = b"application/json", b"application/octet-stream"
_SHOWN = 80


class InferForm:
    """The form of requests, for any thread."""

    def __init__(self, parser: JsonParser, max_candidates: int) -> None:
        self._parser, self._max_candidates = parser, max_candidates

    def translate(
        self, deployment: Deployment, path: str, json_length: bytes | None, request_id: str, body: bytes
    ) -> Translated:
        """Return the scoring request of tensors. Raises RequestError, BodyTooLarge; HTTPException if the model that the
        path names does not score it."""
        found = _PATH.fullmatch(path)
        if found is None:
            raise HTTPException(404)
        check_served(deployment, *found.groups())
        head, rest = split_body(body, json_length)
        parts = read_parts(self._parser.load(head), rest)
        request = parts.request
        own_id = request.id or request_id
        return Translated(
            own_id,
            [(own_id, self._scoring_body(deployment, parts, found[2]))],
            _timeout_s(request),
            lambda replies: encode_reply(orjson.loads(replies[0]), request),
            lambda _: None,
            lambda _, field: field if WHOLE not in parts.inputs else f"{WHOLE}.{field}" if field else WHOLE,
        )

    def _scoring_body(self, deployment: Deployment, parts: Parts, version: str | None) -> bytes:
        """Return the body of /v1/score. Raises HTTPException if another version scores the user."""
        most, check_json = self._max_candidates, self._parser.check
        body = scoring_body(parts, deployment.schema_of, most, check_json)
        user_id = None if version is None else user_of(body)
        if user_id is not None and (own := deployment.arm_of(user_id).model.version) != version:
            raise HTTPException(404, f"the running experiment scores this user with version {own!r} alone")
        return body


def _timeout_s(request: InferRequest) -> float | None:
    timeout = request.parameters.timeout if request.parameters else None
    if timeout is not None and timeout > 1000 * MAX_DEADLINE_MS:
        raise InvalidRequest(f"{timeout} µs is more than {1000 * MAX_DEADLINE_MS}", "parameters.timeout")
    return None if timeout is None else timeout / 1e6


def _head(reply: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything of a reply except its outputs."""
    parameters: dict[str, str] = {}
    if "arm" in reply:
        parameters["arm"] = reply["arm"]
    for name, value in reply.get("degraded", {}).items():
        parameters[f"degraded_{name}"] = value if isinstance(value, str) else orjson.dumps(value).decode()
    head: dict[str, Any] = {"model_name": MODEL, "model_version": reply["model_version"], "id": reply["request_id"]}
    return head | {"parameters": parameters} if parameters else head


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


def encode_reply(scored: Mapping[str, Any], request: InferRequest) -> tuple[Headers, bytes]:
    """Return the headers that describe a reply, and its body; `scored` is the reply to the scoring request.

    Raises InvalidRequest for unknown outputs. There is an eCPM if every candidate has a bid.
    """
    columns: dict[str, list[Any]] = scored["candidates"]
    outputs, pieces = [], []
    for name, is_binary in _wanted(request, list(columns)).items():
        values = columns[name]
        if name == ECPM and None in values:
            if request.outputs:
                raise InvalidRequest("needs a bid for every candidate", ECPM)
            continue
        datatype = "BYTES" if name == ID else "FP64" if name == ECPM else "FP32"
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [len(values)]}
        if is_binary:
            pieces.append(_bytes_of(values, datatype))
            output["parameters"] = {"binary_data_size": len(pieces[-1])}
        else:
            output["data"] = values
        outputs.append(output)
    text = orjson.dumps({**_head(scored), "outputs": outputs})
    if not pieces:
        return [(b"content-type", _JSON)], text
    return [(b"content-type", _BYTES), (_HEADER, b"%d" % len(text))], b"".join((text, *pieces))


def _bytes_of(values: list[Any], datatype: str) -> bytes:
    if datatype == "BYTES":
        texts = [value.encode() for value in values]
        return b"".join(chain.from_iterable(zip(map(_LENGTH.pack, map(len, texts)), texts, strict=True)))
    return struct.pack(f"<{len(values)}{NUMBERS[datatype]}", *values)
