"""`msd bench BUNDLE`: latency of a running service, with one client or under arrivals at a rate."""

import json
from collections.abc import Iterator
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from loadtest.arrivals import Arrivals, Times, bursts, constant, poisson
from loadtest.durations import Durations
from loadtest.generator import Target, open_loop
from loadtest.latency import measure_latency
from loadtest.outcome import Outcome
from loadtest.requests import http_request
from loadtest.routes import OPENRTB, SCORE, Route, as_bid_request
from loadtest.traffic import Traffic, mix_of, mix_text

_BODIES = 1_000

app = typer.Typer(add_completion=False)


class Kind(StrEnum):
    """How requests arrive."""

    POISSON = "poisson"
    CONSTANT = "constant"
    BURSTS = "bursts"


_ARRIVALS: dict[Kind, Arrivals] = {Kind.POISSON: poisson, Kind.CONSTANT: constant, Kind.BURSTS: bursts}


@app.command("bench")
def running(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle that the service serves.")],
    url: Annotated[str, typer.Option(help="The service.")] = "http://127.0.0.1:8080",
    candidates: Annotated[
        str, typer.Option(help="Candidates per request, or weights of several sizes: 50:3,200:1.")
    ] = "200",
    requests: Annotated[int, typer.Option(min=1, help="Measured requests, with one client.")] = 1_000,
    warmup: Annotated[int, typer.Option(min=0, help="Unmeasured requests before.")] = 50,
    rate: Annotated[float | None, typer.Option(min=0.1, help="Requests per second, open loop.")] = None,
    arrivals: Annotated[
        Kind, typer.Option(help="With --rate: the arrival process; bursts are of eight.")
    ] = Kind.POISSON,
    seconds: Annotated[float, typer.Option(min=0.1, help="With --rate: duration.")] = 10.0,
    route: Annotated[Route, typer.Option(help="As scoring requests or as BidRequests.")] = Route.SCORE,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure latency with one client in a closed loop, or, with --rate, from when each request was due."""
    mix = mix_of(candidates)
    traffic = Traffic(bundle, mix)
    path, bodies = _sent(traffic, route)
    if rate is not None:
        _tell(_under_arrivals(url, path, bodies, _ARRIVALS[arrivals](rate, seconds, 0), seconds), rate, as_json)
        return
    with Progress(console=Console(stderr=True)) as bars:
        bar = bars.add_task("Sending requests", total=warmup + requests)
        some = islice(bodies, warmup + requests)

        def progress(number: int) -> None:
            bars.update(bar, completed=number + 1)

        latency = measure_latency(url, some, warmup, progress, path)
    told = {"requests": latency.count, "candidates": mix_text(mix) if len(mix) > 1 else next(iter(mix))}
    figures = _percentiles(latency)
    if as_json:
        typer.echo(json.dumps(told | figures))
        return
    typer.echo(f"{told['requests']} requests of {told['candidates']} candidates: {_times(figures)}")


def _sent(traffic: Traffic, route: Route) -> tuple[str, Iterator[bytes]]:
    """Return path and bodies of the requests. Raises MsdError if the bundle does not map BidRequests."""
    if route is not Route.OPENRTB:
        return SCORE, traffic.bodies()
    mapping = traffic.mapping
    return OPENRTB, (as_bid_request(body, mapping) for body in traffic.bodies())


def _percentiles(latency: Durations) -> dict[str, float]:
    names = {"p50_ms": 50, "p95_ms": 95, "p99_ms": 99, "max_ms": 100}
    return {name: latency.percentile_ms(percent) for name, percent in names.items()}


def _times(figures: dict[str, float]) -> str:
    return ", ".join(f"{name[:3]} {milliseconds:.2f} ms" for name, milliseconds in list(figures.items())[:3])


def _under_arrivals(url: str, path: str, bodies: Iterator[bytes], times: Times, seconds: float) -> Outcome:
    some = [http_request(path, body) for body in islice(bodies, min(_BODIES, len(times) + 1))]
    return open_loop(Target(url, some), times, seconds)


def _tell(outcome: Outcome, rate: float, as_json: bool) -> None:
    found = outcome.as_json()
    if as_json:
        typer.echo(json.dumps({"rate": rate, **found}))
        return
    others = {status: count for status, count in found["statuses"].items() if status != "200" and count}
    told = "".join(f", {count} {status}" for status, count in others.items())
    typer.echo(f"{outcome.offered} requests at {rate:g} a second, {outcome.goodput:.1f} a second scored{told}")
    if outcome.latency.count:
        names = {"p50_ms": "p50", "p99_ms": "p99", "p99.9_ms": "p99.9"}
        typer.echo(", ".join(f"{name} {found[key]:.2f} ms" for key, name in names.items()) + ", from when it was due")
