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
    store: Annotated[
        str | None, typer.Option(help="Where rows are read from: file (the bundle's own) or redis.")
    ] = None,
    redis: Annotated[
        str | None, typer.Option(help="redis://[user:password@]host:port/0; implies --store redis.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 picks a free one.")] = None,
    runtime: Annotated[
        str | None, typer.Option(help="Model runtime: auto (as the bundle says), onnxruntime or openvino.")
    ] = None,
    provider: Annotated[str | None, typer.Option(help="ONNX Runtime's execution provider: cpu or cuda.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads per model run.")] = None,
    workers: Annotated[
        str | None,
        typer.Option(help="Scoring threads, hence requests scored at once: a number or auto (one per core)."),
    ] = None,
    playground: Annotated[bool | None, typer.Option(help="Serve a page to try the model out at /playground.")] = None,
    playground_without: Annotated[
        Path | None, typer.Option(help="Bundle that the page compares with, trained without the LLM's knowledge.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="Log level: debug, info, warning or error.")] = None,
) -> None:
    """Answer scoring requests over HTTP until SIGTERM."""
    flags = {
        "bundle": bundle,
        "store": "redis" if redis and store is None else store,
        "redis_url": redis,
        "host": host,
        "port": port,
        "runtime": runtime,
        "provider": provider,
        "threads": threads,
        "workers": workers,
        "playground": playground,
        "playground_without": playground_without,
        "log_level": log_level,
    }
    given = {f"{PREFIX}{name.upper()}": str(value) for name, value in flags.items() if value is not None}
    settings = Settings.from_environ({**os.environ, **given})
    # Imported here, so that --help and wrong settings are answered at once, without onnxruntime.
    from service.process import run_service

    run_service(settings)
