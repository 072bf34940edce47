"""`msd bench BUNDLE`: latency of a running service, with one client or under arrivals at a rate."""

import json
from enum import StrEnum
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from loadtest.generator import Target, open_loop
from loadtest.http_client import measure_latency
from loadtest.outcome import Outcome
from loadtest.requests import OPENRTB, SCORE, Route, as_bid_request, http_request
from loadtest.traffic import Arrivals, Traffic, bursts, constant, mix_of, mix_text, poisson

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
    path, bodies = SCORE, traffic.bodies()
    if route is Route.OPENRTB:
        path, bodies = OPENRTB, map(partial(as_bid_request, mapping=traffic.mapping), bodies)
    if rate is not None:
        times = _ARRIVALS[arrivals](rate, seconds, 0)
        sent = [http_request(path, body) for body in islice(bodies, min(_BODIES, len(times) + 1))]
        _print_outcome(open_loop(Target(url, sent), times, seconds), rate, as_json)
        return
    measured = islice(bodies, warmup + requests)
    shown = track(measured, "Sending requests", warmup + requests, console=Console(stderr=True))
    latency = measure_latency(url, shown, warmup, path)
    sizes = mix_text(mix) if len(mix) > 1 else next(iter(mix))
    percentiles = {"p50_ms": 50, "p95_ms": 95, "p99_ms": 99, "max_ms": 100}
    figures = {name: latency.percentile_ms(percent) for name, percent in percentiles.items()}
    if as_json:
        typer.echo(json.dumps({"requests": latency.count, "candidates": sizes, **figures}))
        return
    shown_times = ", ".join(f"{name[:3]} {milliseconds:.2f} ms" for name, milliseconds in list(figures.items())[:3])
    typer.echo(f"{latency.count} requests of {sizes} candidates: {shown_times}")


def _print_outcome(outcome: Outcome, rate: float, as_json: bool) -> None:
    found = outcome.as_json()
    if as_json:
        typer.echo(json.dumps({"rate": rate, **found}))
        return
    others = {"degraded": outcome.degraded, **found["statuses"], "200": 0}
    replies = "".join(f", {count} {status}" for status, count in others.items() if count)
    typer.echo(f"{outcome.offered} requests at {rate:g} a second, {outcome.goodput:.1f} a second in full{replies}")
    if outcome.latency.count:
        names = {"p50_ms": "p50", "p99_ms": "p99", "p99.9_ms": "p99.9"}
        typer.echo(", ".join(f"{name} {found[key]:.2f} ms" for key, name in names.items()) + ", from when it was due")
