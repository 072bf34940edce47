"""`msd lab bench`: compare the service with a naive one, or with peers; start them."""

from pathlib import Path
from typing import Annotated

import typer

from msd.report import bar, check_writable, show, write_figures

app = typer.Typer(add_completion=False)


@app.command("bench")
def services(
    figures: Annotated[
        Path | None, typer.Option("--json", help="A file for the figures; pictures go beside it.")
    ] = None,
    work: Annotated[Path, typer.Option(help="A folder that keeps bundles, rows and logs.")] = Path("runs/bench"),
    seconds: Annotated[float, typer.Option(min=0.1, help="Duration of each round; longer reduces noise.")] = 2.0,
    peers: Annotated[
        bool, typer.Option("--peers", help="Compare with general model servers, which are installed first.")
    ] = False,
) -> None:
    """Our service against a naive one, in turns, over bundles of a reference model that is trained first."""
    check_writable(figures)
    from lab.bench.bench import bench_services
    from lab.bench.peers.contest import bench_peers
    from lab.bench.peers.tables import peer_tables
    from lab.bench.pictures import PICTURES
    from lab.bench.plan import BenchPlan
    from lab.bench.tables import tables

    with bar() as heard:
        found = (bench_peers if peers else bench_services)(BenchPlan(seconds=seconds), work, heard)
    show((peer_tables if peers else tables)(found))
    drawn = {} if peers or figures is None else {f"-{name}.svg": draw(found) for name, draw in PICTURES.items()}
    write_figures(figures, found, drawn)
