"""`msd lab bench`: start the service and a naive one, and compare them."""

from pathlib import Path
from typing import Annotated

import typer

from msd.report import bar, check_writable, show, write_figures

app = typer.Typer(add_completion=False)


@app.command("bench")
def services(
    figures: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A JSON file for the figures; pictures go beside it.")
    ] = None,
    work: Annotated[Path, typer.Option(help="A folder that keeps bundles, rows and logs.")] = Path("runs/bench"),
    own: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="BUNDLE MODEL", help="A bundle of MSD's own ranker and the folder of `msd train` that it is of."
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Duration of each round; longer reduces noise.")] = 2.0,
) -> None:
    """Our service against a naive one, in turns, over a reference model that is made first, or over your own ranker."""
    check_writable(figures)
    from lab.bench.bench import BenchPlan, bench_services
    from lab.bench.report import PICTURES, tables

    with bar(refresh=False) as progress:
        found = bench_services(BenchPlan(seconds=seconds, own=own), work, progress)
    show(tables(found))
    drawn = {} if figures is None else {f"-{name}.svg": draw(found) for name, draw in PICTURES.items()}
    write_figures(figures, found, drawn)
