"""POST /v2/models/msd/infer: converts tensors to a scoring request, which is scored like any other.

The core converts most (`native/core/infer.hpp`), and writes the replies; what it refuses is for here.
"""

import re
from functools import partial
from typing import NoReturn

import orjson
from starlette.exceptions import HTTPException

from msd.contract.request import InvalidRequest
from native import core
from service.http.access import OIP
from service.http.json_parser import JsonParser
from service.limits import MAX_DEADLINE_MS
from service.routes.oip.inputs import WHOLE, scoring_body, user_of
from service.routes.oip.model_routes import ECPM, check_served
from service.routes.oip.tensors import InferRequest, read_parts, split_body
from service.scoring.deployment import Deployment

INFER_PATHS = (f"{OIP}/models/{{name}}/infer", f"{OIP}/models/{{name}}/versions/{{version}}/infer")
_PATH = re.compile(rf"{OIP}/models/([^/]+)(?:/versions/([^/]+))?/infer")
_SHOWN = 80


def translate_tensors(
    deployment: Deployment,
    path: str,
    json_length: bytes | None,
    request_id: str,
    body: bytes,
    max_candidates: int,
    parser: JsonParser,
) -> "core.Translation":
    """Return the scoring request of tensors. Raises RequestError, BodyTooLarge; HTTPException if the model that the
    path names does not score it."""
    found = _PATH.fullmatch(path)
    if found is None:
        raise HTTPException(404)
    name, version = found.groups()
    check_served(deployment, name, version)
    head, rest = split_body(body, json_length)
    parts = read_parts(parser.load(head), rest)
    request = parts.request
    own_id = request.id or request_id
    scoring = scoring_body(parts, deployment.schema_of, max_candidates, parser.check)
    user_id = None if version is None else user_of(scoring)
    if user_id is not None and (own := deployment.arm_of(user_id).model.version) != version:
        raise HTTPException(404, f"the running experiment scores this user with version {own!r} alone")
    named, in_bytes = outputs_of(request)
    return core.Translation(
        shown_id=own_id,
        parts=[(own_id, scoring)],
        timeout_s=_timeout_s(request),
        reply=partial(_refuse_outputs, request),
        outputs=core.Outputs(named=named, in_bytes=in_bytes),
        place_of=lambda _, field: field if WHOLE not in parts.inputs else f"{WHOLE}.{field}" if field else WHOLE,
    )


def _timeout_s(request: InferRequest) -> float | None:
    timeout = request.parameters.timeout if request.parameters else None
    if timeout is not None and timeout > 1000 * MAX_DEADLINE_MS:
        raise InvalidRequest(f"{timeout} µs is more than {1000 * MAX_DEADLINE_MS}", "parameters.timeout")
    return None if timeout is None else timeout / 1e6


def outputs_of(request: InferRequest) -> tuple[list[tuple[str, bool]], bool]:
    """Return the requested outputs, each with whether it is sent as bytes; and whether all are, if none is named."""
    by_default = bool(request.parameters and request.parameters.binary_data_output)
    named = []
    for output in request.outputs or ():
        is_binary = output.parameters.binary_data if output.parameters else None
        named.append((output.name, by_default if is_binary is None else is_binary))
    return named, by_default


def _refuse_outputs(request: InferRequest, replies: list[bytes]) -> NoReturn:
    """Raise InvalidRequest: `replies` is the one to the scoring request, which does not have what is asked for."""
    available = list(orjson.loads(replies[0])["candidates"])
    names = [output.name for output in request.outputs or ()]
    for place, name in enumerate(names):
        if name not in available:
            raise InvalidRequest(f"unknown output; expected {', '.join(available)}", name[:_SHOWN])
        if name in names[:place]:
            raise InvalidRequest("is requested twice", name)
    raise InvalidRequest("needs a bid for every candidate", ECPM)
