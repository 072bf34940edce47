"""One keep-alive connection to a service; thin, so that what is timed is the service and not the client."""

import http.client
import time
from collections.abc import Mapping
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from msd.contract.errors import MsdError

_HEADERS: Mapping[str, str] = {"Content-Type": "application/json"}


class ClientError(MsdError):
    """The service could not be reached, or did not answer as it should."""


class Reply(NamedTuple):
    """Status, body, and the seconds from sending to the last byte."""

    status: int
    body: bytes
    seconds: float


class Client:
    """Sends scoring requests one after another."""

    def __init__(self, url: str, timeout: float = 10.0) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host or parts.scheme != "http":
            raise ClientError(f"{url!r} is not a service's address, such as http://127.0.0.1:8080")
        self._url = url
        self._connection = http.client.HTTPConnection(host, port or 80, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def score(self, body: bytes) -> Reply:
        """The reply to one request, whatever its status. Raises ClientError if there is none."""
        return self._send("POST", "/v1/score", body)

    def get(self, path: str) -> Reply:
        """The reply to a GET."""
        return self._send("GET", path, None)

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """The reply to a POST of anything."""
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
