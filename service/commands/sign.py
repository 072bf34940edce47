"""`msd sign`: a bundle, a delta or a catalogue, as one that services with MSD_TRUSTED_KEYS take."""

from pathlib import Path
from typing import Annotated

import typer

from service.trust import sign, verified_manifest

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command("sign")
def sign_command(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="The folder of a bundle, or of what `msd delta` or `msd catalogue` wrote."
        ),
    ],
    key: Annotated[Path, typer.Option(help="The private key, a PEM file: openssl genpkey -algorithm ed25519 -out KEY")],
) -> None:
    """Verifies the folder in full, and puts a signature of its manifest into it."""
    manifest = verified_manifest(folder)
    path = sign(folder, manifest, key)
    typer.echo(f"{path}: signs {manifest}, and with it all files of {folder}")
