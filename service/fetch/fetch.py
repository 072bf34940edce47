"""A bundle by the SHA-256 of its archive: fetched, compared, unpacked, verified, and only then there under its name.

What fails leaves nothing but, where it was the network, the part that came, for the next try.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from msd.contract.bundle import Bundle, new_bundle
from msd.contract.errors import BundleError
from msd.contract.files import write_text_atomic
from service.fetch.archive import unpack
from service.fetch.download import download
from service.fetch.errors import FetchError
from service.fetch.place import place_of
from service.fetch.web import Web
from service.trust import Trust

ORIGIN = "archive.sha256"
"""Beside the bundle's files: what they were unpacked from."""
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class Fetched(NamedTuple):
    """The bundle, and whether it had been there before."""

    bundle: Bundle
    was_there: bool


def fetch(
    url: str, digest: str, folder: Path, max_bytes: int, trust: Trust, environ: Mapping[str, str] = os.environ
) -> Fetched:
    """Makes `folder` the bundle whose archive has this digest. Raises MsdErrors that say what is wrong."""
    found = _DIGEST.fullmatch(digest)
    if not found:
        raise FetchError(f"--digest {digest[:80]!r}: is none; it looks like sha256: and 64 hexadecimal digits")
    sha256 = found[1]
    if _origin(folder) == sha256:
        return Fetched(trust.open(folder), was_there=True)
    part = folder.parent / f".{folder.name}.{sha256[:16]}.part"
    try:
        with new_bundle(folder) as temporary:
            web = Web()
            place = place_of(url, sha256, environ, web)
            download(web, place, sha256, part, max_bytes)
            try:
                unpack(part, temporary, max_bytes)
                trust.open(temporary)
            except BundleError as error:
                raise BundleError(
                    f"{place.name}: is the archive that was asked for, but no good bundle: {error}"
                ) from None
            finally:
                part.unlink(missing_ok=True)
            write_text_atomic(temporary / ORIGIN, sha256 + "\n")
    except OSError as error:
        raise FetchError(f"{error.filename or folder}: {error.strerror or error}") from None
    return Fetched(trust.open(folder), was_there=False)


def _origin(folder: Path) -> str | None:
    try:
        return (folder / ORIGIN).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
