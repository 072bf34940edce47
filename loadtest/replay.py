"""Sends requests with known scores to a service, and finds the largest difference."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from loadtest.http_client import Client, ClientError
from msd.contract.errors import MsdError, plain_words


class ReplayFigures(NamedTuple):
    """Result of a replay. `twin_differences` counts replies that differ from the other service's."""

    requests: int
    candidates: int
    max_abs_diff: float
    degraded: int
    twin_differences: int | None


class _Scores(BaseModel):
    """Scores in the request's order; everything else is kept to compare twins."""

    model_config = ConfigDict(extra="allow")

    pctr: list[FiniteFloat]


class _Recorded(BaseModel):
    request: dict[str, Any]
    expected: _Scores


class _Reply(BaseModel):
    candidates: _Scores
    degraded: dict[str, Any] | None = None


def replay(path: Path, url: str, twin: str | None, progress: Callable[[], None]) -> ReplayFigures:
    """Replay the file's requests, in order. Raises MsdError for the first that is not answered with scores."""
    requests = candidates = degraded = differences = 0
    worst = 0.0
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(address)) for address in (url, twin) if address]
        for number, recorded in _recorded(path):
            body, expected = json.dumps(recorded.request).encode(), recorded.expected.pctr
            replies = [_reply(client, body, len(expected), f"{path}:{number}") for client in clients]
            found = replies[0].candidates.pctr
            worst = max(worst, float(np.abs(np.subtract(expected, found)).max(initial=0.0)))
            differences += any(reply.candidates != replies[0].candidates for reply in replies)
            degraded += replies[0].degraded is not None
            requests += 1
            candidates += len(found)
            progress()
    return ReplayFigures(requests, candidates, worst, degraded, differences if twin else None)


def count_requests(path: Path) -> int:
    """Return the number of requests in a file. Raises MsdError that names an invalid line, or if there are none."""
    count = sum(1 for _ in _recorded(path))
    if not count:
        raise MsdError(f"{path}: holds no requests; `msd export --replay` writes such files")
    return count


def _recorded(path: Path) -> Iterator[tuple[int, _Recorded]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield number, _Recorded.model_validate_json(line)
                except ValidationError as error:
                    raise MsdError(
                        f"{path}:{number}: not a recorded request ({_first(error)}); `msd export --replay` writes them"
                    ) from None
    except OSError as error:
        raise MsdError(f"{path}: {error.strerror}") from None


def _reply(client: Client, body: bytes, candidates: int, place: str) -> _Reply:
    answer = client.score(body)
    if answer.status != 200:
        raise ClientError(f"{place}: answered {answer.status}: {answer.body[:300].decode(errors='replace')}")
    try:
        reply = _Reply.model_validate_json(answer.body)
    except ValidationError as error:
        raise ClientError(f"{place}: not the answer of a scoring service ({_first(error)})") from None
    if len(reply.candidates.pctr) != candidates:
        raise ClientError(f"{place}: {len(reply.candidates.pctr)} scores where {candidates} are recorded")
    return reply


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {plain_words(first['msg'])}" if place else plain_words(first["msg"])
