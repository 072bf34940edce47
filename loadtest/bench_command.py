"""`msd bench`: the latency of a running service."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from loadtest.latency import measure_latency
from loadtest.traffic import Traffic

app = typer.Typer(add_completion=False)


@app.command("bench")
def bench(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle that the service serves.")],
    url: Annotated[str, typer.Option(help="The service.")] = "http://127.0.0.1:8080",
    candidates: Annotated[int, typer.Option(min=1, max=2000, help="Candidates a request.")] = 200,
    requests: Annotated[int, typer.Option(min=1, help="Requests that count.")] = 1_000,
    warmup: Annotated[int, typer.Option(min=0, help="Requests before, that do not.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measures latency with one client in a closed loop: p50, p95, p99."""
    traffic = Traffic(bundle, candidates)
    with Progress(console=Console(stderr=True)) as bars:
        bar = bars.add_task("Sending requests", total=warmup + requests)
        latency = measure_latency(url, traffic, candidates, requests, warmup, lambda: bars.advance(bar))
    if as_json:
        typer.echo(json.dumps(latency._asdict()))
    else:
        typer.echo(
            f"{latency.requests} requests of {candidates} candidates: "
            f"p50 {latency.p50_ms:.2f} ms, p95 {latency.p95_ms:.2f} ms, p99 {latency.p99_ms:.2f} ms"
        )
