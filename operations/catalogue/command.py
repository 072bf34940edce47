"""`msd catalogue`: rows of items unknown to a bundle's export."""

import json
import math
import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from msd.report import bar

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command("catalogue")
def catalogue_command(
    items: Annotated[
        Path, typer.Argument(metavar="ITEMS", help="A folder of Parquet files with ids, texts and features of items.")
    ],
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle that the rows are for.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder; existing parts are kept.")],
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes on this machine. Default: one per core.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Run on Ray: the address of a cluster, auto, or local."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Make a row for every item, one part per file. If interrupted, run it again to resume."""
    from operations.catalogue.catalogue import make_catalogue, make_here
    from operations.catalogue.manifest import CatalogueError
    from service.machine import usable_cores
    from service.trust import Trust

    if processes is not None and ray is not None:
        raise CatalogueError("--processes is for this machine, --ray for Ray, which finds its own: give one of them")
    make_parts = partial(make_here, processes=processes or max(1, math.floor(usable_cores())))
    if ray is not None:
        from operations.catalogue.on_ray import make_on_ray

        make_parts = partial(make_on_ray, address=ray)
    opened = Trust.from_environ(os.environ).open(bundle, rows=False)
    with bar() as heard:
        progress = partial(heard, "parts")
        done = make_catalogue(items, opened, out, make_parts, progress)
    text = (
        f"{out}: {done.rows} rows of bundle {done.bundle_id}, {done.vectors} of them with a vector, in"
        f" {done.parts} parts ({done.parts_made} made now); next: msd publish {out} --rows"
    )
    typer.echo(json.dumps(done._asdict()) if as_json else text)
