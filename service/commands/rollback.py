"""`msd rollback`: back to the bundle before, in a folder of bundles or in Redis. Services follow within a second."""

import os
from pathlib import Path
from typing import Annotated

import typer

from service.deployment.bundle_folder import CURRENT, SourceError, point_to, roll_back
from service.deployment.redis_pointer import roll_back_redis
from service.settings import redis_url_of

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command("rollback")
def rollback_command(
    bundles: Annotated[
        Path | None, typer.Argument(metavar="BUNDLES", help="The folder of bundles, with its pointer `current`.")
    ] = None,
    redis: Annotated[str | None, typer.Option(help="Exchange the pointers in this Redis, else MSD_REDIS_URL.")] = None,
    to: Annotated[str | None, typer.Option(help="Another bundle in the folder than the previous one.")] = None,
) -> None:
    """Exchanges the current bundle and the previous one; done twice, all is as it was."""
    if bundles is not None and redis is not None:
        raise SourceError("give a folder of bundles or --redis, not both: each has pointers of its own")
    if bundles is not None:
        if to is not None:
            point_to(bundles, to)
        typer.echo(f"{bundles / CURRENT} leads to {to or roll_back(bundles)}")
        return
    url = redis or redis_url_of(os.environ)
    if to is not None or not url:
        raise SourceError("nothing to roll back: give a folder of bundles, or --redis redis://host:port/0")
    typer.echo(f"Redis points to bundle {roll_back_redis(url)}")
