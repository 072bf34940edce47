"""`msd pack`: a bundle as one file with a digest, to be kept where `msd fetch` finds it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from service.fetch.archive import pack

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command("pack")
def pack_command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")],
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="The file to write: ….tar, or ….tar.gz.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the digest as a JSON object.")] = False,
) -> None:
    """Verifies the bundle in full and writes it as one file, whose bytes are the same each time."""
    digest, size = f"sha256:{pack(bundle, archive)}", archive.stat().st_size
    typer.echo(json.dumps({"digest": digest, "bytes": size}) if as_json else f"{archive}: {digest} ({size} bytes)")
