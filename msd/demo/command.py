"""`msd demo`: from nothing to scored ads, or with --instant a bundle that comes with the package. Loads either when it
is called: the bundle needs no more than a service does.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(add_completion=False)


@app.command("demo")
def demo(
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Output folder; finished steps are reused. Default: runs/demo, with -quick or -paper if asked for.",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Show within minutes that all steps run; the figures mean nothing.")
    ] = False,
    network: Annotated[
        Literal["msd", "paper"], typer.Option(help="`msd train --network` of the model with semantics.")
    ] = "msd",
    instant: Annotated[
        bool, typer.Option("--instant", help="Only serve the bundle of invented ads that comes with the package.")
    ] = False,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="With --instant: the port to serve on.")] = 8080,
) -> None:
    """Train, export, publish, serve and score on MovieLens-100K; write demo.json and report.html."""
    if instant:
        if out or quick or network != "msd":
            raise typer.BadParameter("--instant trains nothing: leave out --out, --quick and --network")
        from msd.demo.instant import serve_instant

        serve_instant(port)
    else:
        from msd.demo.movielens import run_demo

        run_demo(out, quick, network)
