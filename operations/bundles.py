"""Commands on bundles: what changed in one (`msd delta`), its signature (`msd sign`), one file of it (`msd pack`) and
back (`msd fetch`), and the one before (`msd rollback`).
"""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from msd.contract.bundle import MANIFEST, SIGNATURE, open_bundle
from msd.contract.errors import BundleError
from msd.contract.files import read_small, write_bytes_atomic
from operations.catalogue.manifest import CATALOGUE, open_catalogue
from operations.delta import DELTA, open_delta, write_delta
from operations.fetch.archive import pack
from service.settings import redis_url_of
from service.trust import MAX_KEY_BYTES, Trust, TrustError, cryptography_modules


def sign(folder: Path, manifest: str, private_key: Path) -> Path:
    """Sign the manifest of a verified folder, and return the path of the signature. Raises TrustError."""
    ed25519, serialization = cryptography_modules()
    content = read_small(private_key, MAX_KEY_BYTES, TrustError)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except TypeError:
        raise TrustError(f"{private_key}: the key is encrypted; decrypt it first (openssl pkey)") from None
    except Exception as error:
        raise TrustError(f"{private_key}: holds no private key (PEM): {type(error).__name__}") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise TrustError(f"{private_key}: not an Ed25519 key; make one with: openssl genpkey -algorithm ed25519")
    path = folder / SIGNATURE
    write_bytes_atomic(path, key.sign((folder / manifest).read_bytes()))
    return path


def verified_manifest(folder: Path) -> str:
    """Verify a bundle, a delta or a catalogue in full, and return its manifest's name. Raises BundleError or
    CatalogueError."""
    if (folder / MANIFEST).exists():
        open_bundle(folder, rows=True)
        return MANIFEST
    if (folder / CATALOGUE).exists():
        open_catalogue(folder)
        return CATALOGUE
    if not (folder / DELTA).exists():
        raise BundleError(
            f"{folder}: is neither a bundle ({MANIFEST} is missing) nor a delta ({DELTA} is missing) nor a catalogue"
            f" ({CATALOGUE} is missing)"
        )
    open_delta(folder)
    return DELTA


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
    """Verify the folder in full, and put a signature of its manifest into it."""
    path = sign(folder, manifest := verified_manifest(folder), key)
    typer.echo(f"{path}: signs {manifest}, and with it all files of {folder}")


@packing.command("pack")
def pack_command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")],
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="The file to write: ….tar, or ….tar.gz.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the digest as a JSON object.")] = False,
) -> None:
    """Verify the bundle in full and write it as one file, whose bytes are the same each time."""
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
    """Fetch, compare with the digest, unpack and verify; with MSD_TRUSTED_KEYS, signatures too."""
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
