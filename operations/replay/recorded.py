"""`msd replay FILE`: sends requests with known scores to a running service, and finds the largest difference."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from msd.contract.errors import MsdError, first_fault
from msd.report import bar
from operations.service_client import Ca, CannotAsk, Cert, CertKey, KeyFile, ServiceClient, tls_of

app = typer.Typer(add_completion=False)


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


@app.command("replay")
def main(
    requests: Annotated[Path, typer.Argument(metavar="FILE", help="The output of `msd export --replay`.")],
    url: Annotated[str, typer.Option(help="The service.")] = "http://127.0.0.1:8080",
    twin: Annotated[
        str | None, typer.Option(help="A second service with the same key, whose scores must be identical to the bit.")
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Largest allowed difference.")] = 1e-5,
    key_file: KeyFile = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Send recorded requests and compare the scores. Exit status 1 if any differs by more than the tolerance.

    The log of a service is scored again without one: msd replay LOG --bundle DIR (msd replay LOG --help).
    """
    tls = tls_of(ca, cert, cert_key)
    services = [ServiceClient(one, key_file, tls) for one in (url, twin) if one is not None]
    total = count_requests(requests)
    with bar() as heard:
        found = replay(requests, services, lambda done: heard("Replaying", done, total))
    if as_json:
        typer.echo(json.dumps(found._asdict()))
    else:
        typer.echo(
            f"{found.requests} requests, {found.candidates} candidates: scores differ by {found.max_abs_diff:.1e} "
            f"at most; {found.degraded} replies were degraded"
        )
    if found.max_abs_diff > tolerance or found.twin_differences:
        raise typer.Exit(1)


def replay(path: Path, services: Sequence[ServiceClient], progress: Callable[[int], None]) -> ReplayFigures:
    """Replay the file's requests, in order; a second service is the first one's twin. Raises MsdError for the first
    request that is not answered with scores."""
    requests = candidates = degraded = differences = 0
    worst = 0.0
    for number, recorded in _recorded(path):
        body, expected = json.dumps(recorded.request).encode(), recorded.expected.pctr
        replies = [_reply(service, body, len(expected), f"{path}:{number}") for service in services]
        found = replies[0].candidates.pctr
        worst = max(worst, float(np.abs(np.subtract(expected, found)).max(initial=0.0)))
        differences += any(reply.candidates != replies[0].candidates for reply in replies)
        degraded += replies[0].degraded is not None
        requests += 1
        candidates += len(found)
        progress(requests)
    return ReplayFigures(requests, candidates, worst, degraded, differences if services[1:] else None)


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
                    fault = f"not a recorded request ({first_fault(error)})"
                    raise MsdError(f"{path}:{number}: {fault}; `msd export --replay` writes them") from None
    except OSError as error:
        raise MsdError(f"{path}: {error.strerror}") from None


def _reply(service: ServiceClient, body: bytes, candidates: int, place: str) -> _Reply:
    answer = service.ask("/v1/score", body)
    if answer.status != 200:
        raise CannotAsk(f"{place}: answered {answer.status}: {answer.body[:300].decode(errors='replace')}")
    try:
        reply = _Reply.model_validate_json(answer.body)
    except ValidationError as error:
        raise CannotAsk(f"{place}: not the answer of a scoring service ({first_fault(error)})") from None
    if len(reply.candidates.pctr) != candidates:
        raise CannotAsk(f"{place}: {len(reply.candidates.pctr)} scores where {candidates} are recorded")
    return reply
