"""`msd replay LOG`: are logged requests scored to the same bits again, here and now?"""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TextColumn

from service.request_log.replay import Replayed, replay_log
from service.trust import Trust

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command("replay")
def main(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="A service's MSD_LOG_DIR, or one of its files.")],
    bundle: Annotated[list[Path], typer.Option(metavar="DIR", help="The bundle that it served; of several, each.")],
    runtime: Annotated[
        str, typer.Option(help="What runs the model: 'as logged', auto, onnxruntime or openvino.")
    ] = "as logged",
    limit: Annotated[int | None, typer.Option(min=1, help="How many requests, of the oldest.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Scores the requests of a service's log again, from the rows that they were scored from, and compares the scores.

    To the bit on the same processor and runtime, else within the manifest's tolerances. Exit status 1 if any differs.
    """
    trust = Trust.from_environ(os.environ)
    bundles = [trust.open(folder, rows=False) for folder in bundle]
    with Progress(TextColumn("{task.description}, {task.completed}"), console=Console(stderr=True)) as bars:
        bar = bars.add_task("Replaying", total=None)
        found = replay_log(log, bundles, runtime, limit, lambda: bars.advance(bar))
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        _tell(found)
    if found.mismatches:
        raise typer.Exit(1)


def _tell(found: Replayed) -> None:
    typer.echo(
        f"{found.requests} requests, {found.candidates} candidates: {found.exact} compared to the bit, {found.near} by"
        f" the tolerances; {found.mismatches} differ (scores by {found.max_abs_diff:.1e} at most)"
    )
    for reason, count in found.unlike.items():
        typer.echo(f"by the tolerances, {count}: {reason}")
    for bundle_id, count in found.skipped.items():
        typer.echo(f"left out, {count}: of bundle {bundle_id}; give its folder by --bundle")
    for request_id, what in found.differences:
        typer.echo(f"differs: request {request_id}: {what}")
