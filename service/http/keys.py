"""API keys and authorisation. The key file has name, scopes, expiry and hash, never the key. Requests are judged before
their body is read.

Knows which paths need which scope. Does not know what the routes do.
"""

import hashlib
import math
import secrets
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

import structlog
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.types import ASGIApp, Receive, Scope, Send

from msd.contract.errors import MsdError, first_fault
from msd.contract.files import read_small
from service.errors import Forbidden, KeysUnavailable, ServiceError, Unauthorized
from service.http.access import KEY, OIP, PLAYGROUND, is_scoring
from service.http.entry import LOOPBACK
from service.settings import Settings
from service.telemetry.metrics import KeyRefusal, Metrics
from service.watched_files import WatchedFiles

KeyScope = Literal["score", "events", "metrics", "admin"]
KEY_SCOPES: tuple[KeyScope, ...] = ("score", "events", "metrics", "admin")
_MARK = "msd_"
_RANDOM_BYTES = 32
_MAX_KEY_BYTES = 256
_MAX_FILE_BYTES = 2**22
_BEARER = b"bearer "
_LOG_AGAIN_S = 10.0
Need = KeyScope | Literal["any"] | None
"""A scope, any key, or no key."""
PAGE, ASSETS = "/playground", f"{PLAYGROUND}static/"
"""Paths of the playground."""


class KeysError(MsdError):
    """The key file is missing or invalid."""


class KeyEntry(BaseModel):
    """The stored part of one key. Its scopes are all that it may do: `admin` does not score."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    scopes: Annotated[tuple[KeyScope, ...], Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    not_after: AwareDatetime | None = None

    def has_ended(self, at: float) -> bool:
        """Return whether it has expired at a time in Unix seconds."""
        return self.not_after is not None and self.not_after.timestamp() < at


class KeyFile(BaseModel):
    """Format of the key file. A file without keys would lock everyone out, so it is an error."""

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


class KeyRing:
    """Keys by their hashes."""

    def __init__(self, file: KeyFile) -> None:
        self.keys = file.keys
        self._by_hash = {key.sha256: key for key in file.keys}

    def find(self, key: bytes) -> KeyEntry | None:
        """Return the entry of a key. Keys are long and random, so a fast hash protects them as well as a slow one, and
        the time of a look-up tells nothing of another key: its hash cannot be chosen."""
        return self._by_hash.get(hashlib.sha256(key).hexdigest()) if len(key) <= _MAX_KEY_BYTES else None


def read_keys(path: Path) -> KeyRing:
    """Read a key file. Raises KeysError, which says what is wrong and where, without values."""
    content = read_small(path, _MAX_FILE_BYTES, KeysError, "; `msd key new` makes keys for it")
    try:
        return KeyRing(KeyFile.model_validate_json(content))
    except ValidationError as error:
        raise KeysError(f"{path}: {first_fault(error)}") from None


def new_key(name: str, scopes: tuple[KeyScope, ...], not_after: datetime | None) -> tuple[str, KeyEntry]:
    """Return a new key, and its entry. Raises KeysError if the name is invalid."""
    key = _MARK + secrets.token_urlsafe(_RANDOM_BYTES)
    digest = hashlib.sha256(key.encode()).hexdigest()
    try:
        return key, KeyEntry(name=name, scopes=scopes, sha256=digest, not_after=not_after)
    except ValidationError as error:
        raise KeysError(str(first_fault(error))) from None


def check_keys(settings: Settings) -> None:
    """Raise KeysError for an invalid key file before a bundle is verified; log if there is none."""
    if settings.keys_file is not None:
        read_keys(settings.keys_file)
        return
    log = structlog.get_logger("msd.guard")
    tell = log.info if settings.host in LOOPBACK else log.warning
    reason = "MSD_KEYS_FILE is not set: any client that reaches the port can request scores; there are no admin routes"
    tell("open_to_all", reason=reason)


class Guard:
    """Authorises requests by the current keys."""

    def __init__(self, keys: WatchedFiles[KeyRing], settings: Settings, metrics: Metrics) -> None:
        self.keys = keys
        self._metrics = metrics
        self._guards_metrics = settings.guard_metrics
        self._max_age_s = settings.keys_max_age_seconds or math.inf
        self._unlogged: Counter[KeyRefusal] = Counter()
        self._log_again_at = 0.0
        self._log = structlog.get_logger("msd.guard")

    def scorer(self, key: bytes) -> KeyEntry | None:
        """Return the entry of a key that may score; None for others."""
        entry = None if self.is_stale else self.keys.value.find(key)
        return entry if entry is not None and "score" in entry.scopes and not entry.has_ended(time.time()) else None

    @property
    def is_stale(self) -> bool:
        """Return whether the keys are older than the maximum age: then none is accepted."""
        return self.keys.age_s > self._max_age_s

    def need(self, path: str) -> Need:
        """Return what a path needs: a key for every path except probes, the bare pages and, by default, metrics."""
        if path.removeprefix(OIP) in ("/health/live", "/health/ready"):
            return None
        if path == "/metrics":
            return "metrics" if self._guards_metrics else None
        if path == PAGE or path.startswith(ASSETS):
            return None
        # What the playground shows about users is what their scores are made from.
        if is_scoring(path) or path.startswith(PLAYGROUND):
            return "score"
        if path == "/v1/events" or f"{path}/".startswith("/v1/items/"):
            return "events"
        return "admin" if path.startswith("/v1/admin") else "any"

    def check(self, scope: Scope, need: Need) -> None:
        """Raise and count the error if a request may not be answered."""
        if (found := self._judge(scope, need)) is not None:
            reason, error = found
            self._count(scope, reason)
            raise error

    def _judge(self, scope: Scope, need: Need) -> tuple[KeyRefusal, ServiceError] | None:
        if need is None:
            return None
        given = _given_key(scope)
        if given is None:
            return "missing", Unauthorized("send an API key: `Authorization: Bearer KEY`, or `X-Api-Key: KEY`")
        if self.is_stale:
            return "stale", KeysUnavailable("the API keys cannot be read: none is accepted")
        key = self.keys.value.find(given)
        if key is None:
            return "unknown", Unauthorized("unknown API key")
        scope[KEY] = key.name
        if key.has_ended(time.time()):
            return "expired", Unauthorized(f"the API key {key.name!r} has expired; ask for a new one")
        if need != "any" and need not in key.scopes:
            return "scope", Forbidden(f"the API key {key.name!r} lacks the scope {need!r}")
        return None

    def _count(self, scope: Scope, reason: KeyRefusal) -> None:
        """Count a refusal. The log gets one line for many, so that guessing keys cannot fill it."""
        self._metrics.keys_refused[reason].inc()
        self._unlogged[reason] += 1
        now = time.monotonic()
        if now >= self._log_again_at:
            client = scope.get("client")
            self._log.warning("keys_refused", requests=dict(self._unlogged), last_client=client and client[0])
            self._unlogged.clear()
            self._log_again_at = now + _LOG_AGAIN_S


def open_guard(settings: Settings, metrics: Metrics) -> Guard | None:
    """Return the guard, None without a key file. Raises KeysError if the file is invalid."""
    path = settings.keys_file
    if path is None:
        return None
    gauges = metrics.keys_stale, metrics.watched_ages["keys"]
    return Guard(WatchedFiles("keys", [path], lambda: read_keys(path), *gauges), settings, metrics)


class GuardMiddleware:
    """Guards all routes of the app, including any added later."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app, self._guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._guard.check(scope, self._guard.need(scope["path"]))
        await self._app(scope, receive, send)


def _given_key(scope: Scope) -> bytes | None:
    for name, value in scope["headers"]:
        if name == b"x-api-key" and value:
            return bytes(value)
        if name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER:
            return bytes(value[len(_BEARER) :].strip())
    return None
