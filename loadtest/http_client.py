"""One lean keep-alive connection to a service, so that the service is timed and not the client; and a helper that waits
for a result.
"""

import http.client
import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

from loadtest.outcome import Durations
from msd.contract.errors import MsdError

_HEADERS: Mapping[str, str] = {"Content-Type": "application/json"}
_PATIENCE_S, _POLL_S = 60.0, 0.02
Answer = TypeVar("Answer")


class ClientError(MsdError):
    """The service is unreachable, or did not answer as it should."""


class Reply(NamedTuple):
    """Status, body, and the seconds from sending to the last byte."""

    status: int
    body: bytes
    seconds: float

    def check(self, status: int, where: str = "the service") -> None:
        """Raise ClientError, quoting the body, for any other status."""
        if self.status != status:
            raise ClientError(f"{where} answered {self.status}: {self.body[:300].decode(errors='replace')}")


def host_and_port(url: str) -> tuple[str, int]:
    """Return a service's host and port. Raises ClientError for anything but an http address."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or parts.scheme != "http":
        raise ClientError(f"{url!r} is not a service's address, such as http://127.0.0.1:8080")
    return host, port or 80


class ServiceConnection:
    """Sends scoring requests one after another."""

    def __init__(self, url: str, timeout: float = 10.0) -> None:
        self._url = url
        self._connection = http.client.HTTPConnection(*host_and_port(url), timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def score(self, body: bytes) -> Reply:
        """Return the reply to one request, whatever its status. Raises ClientError if there is none."""
        return self._send("POST", "/v1/score", body)

    def scored(self, body: bytes) -> Reply:
        """Return the reply to a scored request. Raises ClientError for any status but 200."""
        reply = self.score(body)
        reply.check(200, self._url)
        return reply

    def scores(self, body: bytes) -> list[float]:
        """Return the pCTR of a request's candidates. Raises ClientError for any status but 200."""
        scores: list[float] = json.loads(self.scored(body).body)["candidates"]["pctr"]
        return scores

    def metric(self, sample: str) -> float:
        """Return the value of a sample, named with its labels as in the exposition; 0 if absent."""
        for line in self.get("/metrics").body.decode("utf-8", "replace").splitlines():
            if line.startswith(f"{sample} "):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def get(self, path: str) -> Reply:
        """Return the reply to a GET."""
        return self._send("GET", path, None)

    def post(self, path: str, body: bytes, headers: Mapping[str, str] = _HEADERS) -> Reply:
        """Return the reply to a POST, of JSON unless the headers say otherwise."""
        return self._send("POST", path, body, headers)

    def _send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] = _HEADERS) -> Reply:
        start = time.perf_counter()
        try:
            self._connection.request(method, path, body, dict(headers))
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ClientError(f"{self._url}: no reply: {error or type(error).__name__}") from error
        return Reply(response.status, content, time.perf_counter() - start)


def measure_latency(url: str, bodies: Iterable[bytes], warmup: int = 0, path: str = "/v1/score") -> Durations:
    """Return the time of each request after the first `warmup`, of one client in a closed loop. Raises ClientError for
    any reply but 200."""
    durations = Durations()
    with ServiceConnection(url) as client:
        for number, body in enumerate(bodies):
            reply = client.post(path, body)
            reply.check(200, url)
            if number >= warmup:
                durations.record(reply.seconds)
    return durations


def wait_until(
    what: str,
    answer: Callable[[], Answer],
    patience_s: float = _PATIENCE_S,
    not_yet: type[Exception] | tuple[type[Exception], ...] = ClientError,
) -> Answer:
    """Return the first true result; errors of type `not_yet` count as false. Raises ClientError."""
    until, reason = time.monotonic() + patience_s, ""
    while True:
        try:
            if found := answer():
                return found
        except not_yet as error:
            reason = f"; at last: {error}"
        if time.monotonic() > until:
            raise ClientError(f"{what}: not within {patience_s:g} s{reason}")
        time.sleep(_POLL_S)
