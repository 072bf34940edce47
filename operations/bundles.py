"""Commands on bundles: what changed in one (`msd delta`), its signature (`msd sign`), one file of it (`msd pack`) and
back (`msd fetch`), and the one before (`msd rollback`).
"""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from operations.signing import sign, verified_manifest
from service.settings import redis_url_of
from service.trust import Trust

delta, signing, packing, fetching, rollback = (
    typer.Typer(add_completion=False, pretty_exceptions_enable=False) for _ in range(5)
)


@delta.command("delta")
def delta_command(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The published bundle.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The same bundle, exported again with fresh data.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder for the delta; it must not exist.")],
) -> None:
    """Write the rows that are new or changed, and the ids that are gone."""
    from operations.delta import write_delta

    trust = Trust.from_environ(os.environ)
    made = write_delta(trust.open(old), trust.open(new), out)
    gone = sum(map(len, made.removed.values()))
    typer.echo(
        f"{out}: {made.rows['user'].count} users and {made.rows['item'].count} items are new or changed, {gone} ids are"
        f" gone, of bundle {made.manifest.bundle_id}; next: msd publish {out} --delta"
    )


@signing.command("sign")
def sign_command(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="A bundle's folder, or the output of `msd delta` or `msd catalogue`."),
    ],
    key: Annotated[Path, typer.Option(help="The private key, a PEM file: openssl genpkey -algorithm ed25519 -out KEY")],
) -> None:
    """Verifies the folder in full, and puts a signature of its manifest into it."""
    manifest = verified_manifest(folder)
    path = sign(folder, manifest, key)
    typer.echo(f"{path}: signs {manifest}, and with it all files of {folder}")


@packing.command("pack")
def pack_command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")],
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="The file to write: ….tar, or ….tar.gz.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the digest as a JSON object.")] = False,
) -> None:
    """Verifies the bundle in full and writes it as one file, whose bytes are the same each time."""
    from operations.fetch.archive import pack

    digest, size = f"sha256:{pack(bundle, archive)}", archive.stat().st_size
    typer.echo(json.dumps({"digest": digest, "bytes": size}) if as_json else f"{archive}: {digest} ({size} bytes)")


@fetching.command("fetch")
def fetch_command(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help="The archive: https://HOST/PATH, s3://BUCKET/KEY, gs://BUCKET/KEY, az://CONTAINER/KEY or file:///PATH.",
        ),
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The bundle's new folder; an existing bundle is replaced.")
    ],
    digest: Annotated[str, typer.Option(help="sha256:… of the archive, as `msd pack` prints it.")],
    max_mb: Annotated[int, typer.Option(min=1, help="Size limit of the archive and of its contents, in MiB.")] = 16_384,
) -> None:
    """Fetches, compares with the digest, unpacks and verifies; with MSD_TRUSTED_KEYS, signatures too."""
    from operations.fetch.fetch import fetch

    fetched = fetch(url, digest, folder, max_mb * 2**20, Trust.from_environ(os.environ))
    how = "already there" if fetched.was_there else "fetched and verified"
    typer.echo(f"{folder}: bundle {fetched.bundle.bundle_id} ({fetched.bundle.manifest.model_version}), {how}")


@rollback.command("rollback")
def rollback_command(
    bundles: Annotated[
        Path | None, typer.Argument(metavar="BUNDLES", help="The folder of bundles with the pointer `current`.")
    ] = None,
    redis: Annotated[
        str | None, typer.Option(help="Exchange the pointers in this Redis. Default: MSD_REDIS_URL.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="Bundle to make current. Default: the previous one.")] = None,
) -> None:
    """Exchange the current and the previous bundle; running it twice restores the original state."""
    from service.deployment.bundle_folder import CURRENT, SourceError, point_to, roll_back

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
    from service.deployment.redis_pointer import roll_back_redis

    typer.echo(f"Redis points to bundle {roll_back_redis(url)}")
