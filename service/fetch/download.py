"""A file from an address: bounded, resumed where it broke off, and of the SHA-256 that it should have, or not there.

Does not know what is in it.
"""

import http.client
import re
import time
from collections.abc import Callable
from pathlib import Path

from msd.contract.files import sha256_file
from service.fetch.errors import FetchError, Unavailable
from service.fetch.place import Place
from service.fetch.web import Web

_CHUNK = 2**18
_TRIES = 6
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def download(
    web: Web, place: Place, digest: str, part: Path, max_bytes: int, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Brings the archive to `part`, going on with what an earlier call left there.

    Raises Unavailable when it stays away, keeping what came; FetchError when it is another, keeping nothing.
    """
    resumed = part.exists()
    _bring(web, place, part, max_bytes, sleep)
    found = sha256_file(part)
    if found != digest and resumed:  # what was there may have been of another archive
        part.unlink()
        _bring(web, place, part, max_bytes, sleep)
        found = sha256_file(part)
    if found != digest:
        size = part.stat().st_size
        part.unlink()
        raise FetchError(
            f"{place.name}: its SHA-256 is sha256:{found} ({size} bytes), not sha256:{digest} as was asked for; nothing"
            " was unpacked. Give the digest that `msd pack` printed, or find out who replaced the archive"
        )


def _bring(web: Web, place: Place, part: Path, max_bytes: int, sleep: Callable[[float], None]) -> None:
    failed = 0
    while True:
        had = _size(part)
        try:
            return _bring_rest(web, place, part, max_bytes)
        except Unavailable as error:
            failed = 1 if _size(part) > had else failed + 1
            if failed == _TRIES:
                raise Unavailable(f"{error} (tried {_TRIES} times)") from None
            sleep(min(30.0, 0.5 * 2.0**failed))


def _bring_rest(web: Web, place: Place, part: Path, max_bytes: int) -> None:
    had = _size(part)
    headers = {"Range": f"bytes={had}-"} if had else {}
    # 416: there is no more than what we have, or it is another file; the digest will tell.
    with web.open(place.address, headers, place.secrets(), expected=(416,)) as reply:
        if reply.status == 416:
            return
        start, total = _extent(reply, had, place.name)
        if (total or 0) > max_bytes:
            part.unlink(missing_ok=True)
            raise FetchError(f"{place.name}: has {total} bytes; {max_bytes} are the limit (--max-mb)")
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            _copy(reply, file.write, max_bytes - start, place, part)
    if total is not None and _size(part) < total:
        raise Unavailable(f"{place.name}: broke off at {_size(part)} of {total} bytes")


def _extent(reply: http.client.HTTPResponse, had: int, name: str) -> tuple[int, int | None]:
    """Where in the file the reply's body begins, and how long the whole is, if that is known."""
    if reply.status == 206:
        found = _RANGE.fullmatch(reply.headers.get("Content-Range", ""))
        if not found or int(found[1]) != had:
            raise FetchError(f"{name}: answers with another part than was asked for")
        return had, None if found[2] == "*" else int(found[2])
    length = reply.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _copy(
    reply: http.client.HTTPResponse, write: Callable[[bytes], object], room: int, place: Place, part: Path
) -> None:
    while True:
        try:
            chunk = reply.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"{place.name}: broke off ({str(error) or type(error).__name__})") from None
        if not chunk:
            return
        room -= len(chunk)
        if room < 0:
            part.unlink(missing_ok=True)
            raise FetchError(f"{place.name}: has more bytes than the limit (--max-mb)")
        write(chunk)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
