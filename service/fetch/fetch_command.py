"""`msd fetch`: a bundle from where archives are kept to where it is served, as an init container does it."""

import os
from pathlib import Path
from typing import Annotated

import typer

from service.fetch.fetch import fetch
from service.trust import Trust

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command("fetch")
def fetch_command(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL", help="https://HOST/PATH, s3://BUCKET/KEY or oci://REGISTRY/REPOSITORY[:TAG] of an archive."
        ),
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="What becomes the bundle's folder; a bundle there is replaced.")
    ],
    digest: Annotated[str, typer.Option(help="sha256:… of the archive, as `msd pack` prints it.")],
    max_mb: Annotated[int, typer.Option(min=1, help="Larger archives are refused, and what unpacks to more.")] = 16_384,
) -> None:
    """Fetches, compares with the digest, unpacks and verifies; with MSD_TRUSTED_KEYS, signatures too."""
    trust = Trust.from_environ(os.environ)
    fetched = fetch(url, digest, folder, max_mb * 2**20, trust)
    how = "has been there" if fetched.was_there else "fetched and verified"
    typer.echo(f"{folder}: bundle {fetched.bundle.bundle_id} ({fetched.bundle.manifest.model_version}), {how}")
