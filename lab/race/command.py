"""`msd lab graph`: the speed of the scoring graph alone."""

from pathlib import Path
from typing import Annotated

import typer

from msd.report import bar, check_writable, show, write_figures

app = typer.Typer(add_completion=False)


@app.command("graph")
def graph(
    figures: Annotated[
        Path | None, typer.Option("--json", help="A file for the figures; a picture goes beside it.")
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="A bundle whose ranker is timed as well.")] = None,
    work: Annotated[Path, typer.Option(help="Folder for trained models, reused.")] = Path("runs/graph"),
    seconds: Annotated[float, typer.Option(min=0.0, help="Duration of each comparison; longer reduces noise.")] = 4.0,
    lean_seeds: Annotated[
        int,
        typer.Option(min=1, help="Seeds of the leaner model; from 2 on, each of its changes is tested alone too."),
    ] = 1,
) -> None:
    """Time the scoring graph on one thread: tiled, plain, factorised, in lower precision, its products alone."""
    check_writable(figures)
    from lab.race.bench import GraphPlan, bench_graph
    from lab.race.leaner import Study
    from lab.race.picture import picture
    from lab.race.tables import tables

    with bar() as heard:
        found = bench_graph(GraphPlan(seconds=seconds, study=Study(seeds=lean_seeds)), work, bundle, heard)
    show(tables(found))
    write_figures(figures, found, {} if figures is None else {".svg": picture(found)})
