"""`msd replay`: compares a running service's scores with torch's."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from loadtest.replay import count_requests, replay

app = typer.Typer(add_completion=False)


@app.command("replay")
def main(
    requests: Annotated[Path, typer.Argument(metavar="FILE", help="The output of `msd export --replay`.")],
    url: Annotated[str, typer.Option(help="The service.")] = "http://127.0.0.1:8080",
    twin: Annotated[
        str | None, typer.Option(help="A second service whose scores must be identical to the bit.")
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Largest allowed difference.")] = 1e-5,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Send recorded requests and compare the scores. Exit status 1 if any differs by more than the tolerance.

    The log of a service is scored again without one: msd replay LOG --bundle DIR (msd replay LOG --help).
    """
    with Progress(console=Console(stderr=True)) as bars:
        bar = bars.add_task("Replaying", total=count_requests(requests))
        found = replay(requests, url, twin, lambda: bars.advance(bar))
    if as_json:
        typer.echo(json.dumps(found._asdict()))
    else:
        typer.echo(
            f"{found.requests} requests, {found.candidates} candidates: scores differ by {found.max_abs_diff:.1e} "
            f"at most; {found.degraded} replies were degraded"
        )
    if found.max_abs_diff > tolerance or found.twin_differences:
        raise typer.Exit(1)
