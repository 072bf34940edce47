"""Who may ask for what: looks at a request's key before anything of its body is read.

Knows which paths need which scope. Does not know what the routes do.
"""

import time
from collections import Counter
from typing import Literal

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Forbidden, ServiceError, Unauthorized
from service.http.access import access_of
from service.http.body import discard_body
from service.http.keys import KeyRing, KeyScope, read_keys
from service.http.oip_errors import PREFIX
from service.http.paths import ASSETS, PAGE, PLAYGROUND
from service.http.watched import Watched
from service.settings import Settings
from service.telemetry.metrics import KeyRefusal, Metrics

_BEARER = b"bearer "
_SAY_AGAIN_S = 10.0
Need = KeyScope | Literal["any"] | None
"""A scope; any key at all; or none."""


class Guard:
    """Judges requests by the keys that there are now."""

    def __init__(self, keys: Watched[KeyRing], settings: Settings, metrics: Metrics) -> None:
        self._keys = keys
        self._metrics = metrics
        self._guards_metrics = settings.guard_metrics
        self._max_body_bytes = settings.max_body_bytes
        self._body_timeout_s = settings.body_timeout_ms / 1000
        self._unsaid: Counter[KeyRefusal] = Counter()
        self._say_again_at = 0.0
        self._log = structlog.get_logger("msd.guard")

    def need(self, path: str) -> Need:
        """What a path needs: every path but those of probes, of the playground's bare page, and of metrics unless told
        so, needs a key."""
        if path.removeprefix(PREFIX) in ("/health/live", "/health/ready"):
            return None
        if path == "/metrics":
            return "metrics" if self._guards_metrics else None
        if path == PAGE or path.startswith(ASSETS):
            return None
        # What the playground shows of users is what their scores are made from.
        if path == "/v1/score" or path.startswith(PLAYGROUND) or _is_inference(path):
            return "score"
        if path == "/v1/events":
            return "events"
        return "admin" if path.startswith("/v1/admin") else "any"

    def refusal(self, scope: Scope, need: Need) -> ServiceError | None:
        """Why the request may not be answered, which is counted; None when it may."""
        found = self._judge(scope, need)
        return None if found is None else self._refuse(scope, *found)

    def admits(self, scope: Scope, need: Need) -> bool:
        """Whether it may be answered."""
        return self._judge(scope, need) is None

    def _judge(self, scope: Scope, need: Need) -> tuple[KeyRefusal, ServiceError] | None:
        if need is None:
            return None
        given = _given_key(scope)
        if given is None:
            return "missing", Unauthorized("send a key: `Authorization: Bearer KEY`, or `X-Api-Key: KEY`")
        key = self._keys.value.find(given)
        if key is None:
            return "unknown", Unauthorized("the key is none that this service knows")
        access_of(scope).key = key.name
        if key.not_after is not None and time.time() > key.not_after:
            return "expired", Unauthorized(f"the key {key.name!r} has ended; ask for a new one")
        if need != "any" and need not in key.scopes:
            return "scope", Forbidden(f"the key {key.name!r} has not the scope {need!r}")
        return None

    async def send_away(self, scope: Scope, receive: Receive, refusal: ServiceError) -> None:
        """Raises the refusal. Who still sends a body would not see it, so that is thrown away, within its bounds."""
        if not await discard_body(scope, receive, self._max_body_bytes, self._body_timeout_s):
            refusal.closes = True
        raise refusal

    def _refuse(self, scope: Scope, reason: KeyRefusal, error: ServiceError) -> ServiceError:
        """Counts it. The log has a line for many: whoever guesses is not to fill it."""
        self._metrics.keys_refused[reason].inc()
        self._unsaid[reason] += 1
        now = time.monotonic()
        if now >= self._say_again_at:
            client = scope.get("client")
            self._log.warning("keys_refused", requests=dict(self._unsaid), last_client=client and client[0])
            self._unsaid.clear()
            self._say_again_at = now + _SAY_AGAIN_S
        return error

    async def watch(self) -> None:
        """Sees to it that the keys are those of the file, for ever."""
        await self._keys.watch()


def open_guard(settings: Settings, metrics: Metrics) -> Guard | None:
    """The guard that the settings ask for, None for none. Raises KeysError when the file of keys is not one."""
    path = settings.keys_file
    if path is None:
        return None
    return Guard(Watched("keys", [path], lambda: read_keys(path), metrics.keys_stale), settings, metrics)


class GuardMiddleware:
    """Stands before the app's routes, whichever there are: a route that is added is guarded too."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app, self._guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or raises why not."""
        if scope["type"] == "http" and (refusal := self._guard.refusal(scope, self._guard.need(scope["path"]))):
            await self._guard.send_away(scope, receive, refusal)
        await self._app(scope, receive, send)


def _is_inference(path: str) -> bool:
    return path.startswith(f"{PREFIX}/") and path.endswith("/infer")


def _given_key(scope: Scope) -> bytes | None:
    """The first that is given, by either header."""
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            return bytes(value)
        if name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER:
            return bytes(value[len(_BEARER) :].strip())
    return None
