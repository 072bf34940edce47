"""`msd publish`: writes a bundle's rows to Redis: all of them, a delta, or a catalogue's."""

import json
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from msd.report import bar
from service.settings import redis_url_of

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command("publish")
def publish_command(
    bundle: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE",
            help="The bundle's folder; with --delta the output of `msd delta`, with --rows of `msd catalogue`.",
        ),
    ],
    redis: Annotated[
        str | None,
        typer.Option(
            help="redis://[user:password@]host:port/0, redis+sentinel://…, redis+cluster://…. Default: MSD_REDIS_URL."
        ),
    ] = None,
    delta: Annotated[bool, typer.Option("--delta", help="The folder is a delta: copy only changed rows.")] = False,
    beside: Annotated[
        bool, typer.Option("--beside", help="For an experiment: publish without changing the current bundle.")
    ] = False,
    rows: Annotated[
        bool, typer.Option("--rows", help="The folder is a catalogue: add its rows to those of its bundle.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Copy the bundle's rows to Redis and make them current. If interrupted, run it again."""
    from operations.publish import publish, publish_delta
    from service.machine import give_way
    from service.redis.publication import PublishError
    from service.trust import Trust

    give_way()  # a service on the same machine goes first
    url = redis or redis_url_of(os.environ)
    if not url:
        raise PublishError("no Redis to publish to: give --redis redis://host:port/0, or set MSD_REDIS_URL")
    if delta + beside + rows > 1:
        raise PublishError(
            "--delta, --beside and --rows exclude each other: a delta or a catalogue goes to the bundle it was made for"
        )
    trust = Trust.from_environ(os.environ)
    with bar() as heard:
        progress = partial(heard, "rows")
        done: Any
        if rows:
            from operations.catalogue.publish import publish_rows

            done = publish_rows(bundle, url, progress, trust)
        elif delta:
            done = publish_delta(bundle, url, progress, trust)
        else:
            done = publish(bundle, url, progress, trust, beside=beside)
    text = f"beside the current one: {done}" if beside else str(done)
    typer.echo(json.dumps(asdict(done)) if as_json else text)
