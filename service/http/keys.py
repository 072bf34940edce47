"""API keys: long random strings, of which a file keeps the name, the scopes, the end and the hash, never the key.

Does not know requests, nor when the file is read.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

import structlog
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from msd.contract.errors import MsdError
from msd.contract.files import read_small
from service.http.listener import LOOPBACK
from service.settings import Settings

KeyScope = Literal["score", "events", "metrics", "admin"]
KEY_SCOPES: tuple[KeyScope, ...] = ("score", "events", "metrics", "admin")
_MARK = "msd_"
_RANDOM_BYTES = 32
_MAX_KEY_BYTES = 256
_MAX_FILE_BYTES = 2**22
_PREFIX_BYTES = 8


class KeysError(MsdError):
    """The file of keys is not there, or is not one."""


class KeyEntry(BaseModel):
    """What is kept of one key. It may do what its scopes say and nothing else: `admin` does not score."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    scopes: Annotated[tuple[KeyScope, ...], Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    not_after: AwareDatetime | None = None


class KeyFile(BaseModel):
    """The file's form. A file without any key would lock everybody out, so that it counts as a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    format_version: Literal[1] = 1
    keys: Annotated[tuple[KeyEntry, ...], Field(min_length=1, max_length=10_000)]

    @model_validator(mode="after")
    def _are_told_apart(self) -> Self:
        for kind in ("name", "sha256"):
            values = [getattr(key, kind) for key in self.keys]
            if len(set(values)) != len(values):
                raise ValueError(f"two keys have the same {kind}")
        return self


class Key(NamedTuple):
    """One key as it is looked up."""

    name: str
    scopes: frozenset[KeyScope]
    digest: bytes
    not_after: float | None
    """Unix seconds."""


class KeyRing:
    """Keys by the beginnings of their hashes."""

    def __init__(self, file: KeyFile) -> None:
        self.keys = tuple(map(_key, file.keys))
        self._by_prefix: Mapping[bytes, Key] = {key.digest[:_PREFIX_BYTES]: key for key in self.keys}

    def find(self, key: bytes) -> Key | None:
        """The key that these bytes are. Keys are long and random: a fast hash guards them as well as a slow one."""
        if len(key) > _MAX_KEY_BYTES:
            return None
        digest = hashlib.sha256(key).digest()
        found = self._by_prefix.get(digest[:_PREFIX_BYTES])
        return found if found is not None and hmac.compare_digest(found.digest, digest) else None


def read_keys(path: Path) -> KeyRing:
    """The keys of a file. Raises KeysError, which says what is wrong with it, and where, and shows no value of it."""
    content = read_small(path, _MAX_FILE_BYTES, KeysError, "; `msd key new` makes keys for it")
    try:
        return KeyRing(KeyFile.model_validate_json(content))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise KeysError(f"{path}: {place}: {first['msg'].removeprefix('Value error, ')}") from None


def new_key(name: str, scopes: tuple[KeyScope, ...], not_after: datetime | None) -> tuple[str, KeyEntry]:
    """A new key, and what to keep of it. Raises KeysError when the name is none."""
    key = _MARK + secrets.token_urlsafe(_RANDOM_BYTES)
    digest = hashlib.sha256(key.encode()).hexdigest()
    try:
        return key, KeyEntry(name=name, scopes=scopes, sha256=digest, not_after=not_after)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise KeysError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _key(entry: KeyEntry) -> Key:
    until = entry.not_after.timestamp() if entry.not_after else None
    return Key(entry.name, frozenset(entry.scopes), bytes.fromhex(entry.sha256), until)


def check_keys(settings: Settings) -> None:
    """Has a file that is none stop the start, before a bundle is verified; says so where there is none."""
    if settings.keys_file is not None:
        read_keys(settings.keys_file)
        return
    log = structlog.get_logger("msd.guard")
    tell = log.info if settings.host in LOOPBACK else log.warning
    tell("open_to_all", reason="MSD_KEYS_FILE is not set: whoever reaches the port may ask; there are no admin routes")
