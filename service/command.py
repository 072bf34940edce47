"""`msd serve`: the service over one bundle. Flags go before the `MSD_*` variables of the environment."""

import os
from pathlib import Path
from typing import Annotated

import typer

from service.settings import PREFIX, Settings

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def serve(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="BUNDLE", help="The bundle's folder. Default: MSD_BUNDLE.")
    ] = None,
    redis: Annotated[
        str | None, typer.Option(help="redis://[user:password@]host:port/0, from where rows are read.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 picks a free one.")] = None,
    playground: Annotated[bool | None, typer.Option(help="Serve a page to try the model out at /playground.")] = None,
    playground_without: Annotated[
        Path | None, typer.Option(help="Bundle that the page compares with, trained without the LLM's knowledge.")
    ] = None,
) -> None:
    """Answer scoring requests over HTTP until SIGTERM."""
    flags = {
        "bundle": bundle,
        "store": redis and "redis",
        "redis_url": redis,
        "host": host,
        "port": port,
        "playground": playground,
        "playground_without": playground_without,
    }
    given = {f"{PREFIX}{name.upper()}": str(value) for name, value in flags.items() if value is not None}
    settings = Settings.from_environ({**os.environ, **given})
    # Imported here, so that --help and wrong settings are answered at once, without onnxruntime.
    from service.server.process import run_service

    run_service(settings)
