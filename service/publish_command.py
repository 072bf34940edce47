"""`msd publish`: a bundle's rows into Redis."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from service.publish import PublishError, publish

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command("publish")
def publish_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    redis: Annotated[str | None, typer.Option(help="redis://[user:password@]host:port/0, else MSD_REDIS_URL.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Copies the bundle's rows into Redis and points to them; a run that was interrupted can be repeated."""
    url = redis or os.environ.get("MSD_REDIS_URL")
    if not url:
        raise PublishError("no Redis to publish to: give --redis redis://host:port/0, or set MSD_REDIS_URL")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("rows", total=None)
        done = publish(bundle, url, lambda copied, total: bar.update(task, completed=copied, total=total))
    if as_json:
        typer.echo(json.dumps(asdict(done)))
    else:
        typer.echo(
            f"published bundle {done.bundle_id}: {done.users} users, {done.items} items, {done.bytes} bytes"
            f" in {done.seconds} s; previous: {done.previous or 'none'}; removed {done.removed_keys} old keys"
        )
