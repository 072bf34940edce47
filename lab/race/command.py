"""`msd lab graph`: the speed of the scoring graph alone."""

from pathlib import Path
from typing import Annotated

import typer

from msd.report import bar, check_writable, show, write_figures

app = typer.Typer(add_completion=False)


@app.command("graph")
def graph(
    figures: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="A JSON file for the figures; a picture goes beside it."),
    ] = None,
    work: Annotated[Path, typer.Option(help="Folder for trained models, reused.")] = Path("runs/graph"),
    seconds: Annotated[float, typer.Option(min=0.0, help="Duration of each comparison; longer reduces noise.")] = 4.0,
    lean_seeds: Annotated[
        int, typer.Option(min=0, help="Seeds to train the reference and the leaner model with, and compare.")
    ] = 0,
) -> None:
    """Time the scoring graph on one thread: tiled, plain, factorised, in lower precision, its products alone."""
    check_writable(figures)
    from lab.race.graph import GraphPlan, bench_graph
    from lab.race.leaner import Study
    from lab.race.report import picture, tables

    plan = GraphPlan(seconds=seconds, study=Study(lean_seeds) if lean_seeds else None)
    with bar() as progress:
        found = bench_graph(plan, work, progress)
    show(tables(found))
    write_figures(figures, found, {} if figures is None else {".svg": picture(found)})
