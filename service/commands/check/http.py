"""Asks a service over HTTP, with the standard library alone, and without any proxy that the environment names."""

import http.client
import json
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from msd.contract.errors import MsdError
from service.http.entry import LOOPBACK

_TIMEOUT_S = 10.0
_MAX_BYTES = 2**24


class CannotAsk(MsdError):
    """There is no answer."""


class Answer(NamedTuple):
    """Status, headers in lower case, body, and when it came, in unix seconds."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    at: float

    def json(self) -> dict[str, Any]:
        """The body; empty where it is no JSON object."""
        try:
            document = json.loads(self.body)
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}


class Client:
    """One service's. The key is read from a file, for arguments are everybody's to see."""

    def __init__(self, url: str, key_file: Path | None, tls: ssl.SSLContext) -> None:
        """Raises CannotAsk when the URL or the file is none."""
        parts = urlsplit(url)
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if parts.scheme not in ("http", "https") or host is None:
            raise CannotAsk("--url: not a URL; it looks like http://127.0.0.1:8080")
        self.is_local = host in LOOPBACK
        self._url = f"{parts.scheme}://{host}:{port or ''}"
        self._host, self._port, self._tls = host, port, tls if parts.scheme == "https" else None
        self._key = None if key_file is None else _read_key(key_file)

    def get(self, path: str, with_key: bool = True) -> Answer:
        """Raises CannotAsk."""
        return self._ask("GET", path, None, with_key)

    def post(self, path: str, body: bytes, with_key: bool = True) -> Answer:
        """Raises CannotAsk."""
        return self._ask("POST", path, body, with_key)

    def _ask(self, method: str, path: str, body: bytes | None, with_key: bool) -> Answer:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if with_key and self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        connection = (
            http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
            if self._tls is None
            else http.client.HTTPSConnection(self._host, self._port, timeout=_TIMEOUT_S, context=self._tls)
        )
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, told, answer.read(_MAX_BYTES), time.time())
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise CannotAsk(f"{self._url}: no answer: {reason}") from None
        finally:
            connection.close()


def tls_of(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    """What to ask an https URL with. Raises CannotAsk."""
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert is not None:
            context.load_cert_chain(cert, key)
    except OSError as error:
        raise CannotAsk(f"--ca, --cert, --cert-key: {error.strerror or error}") from None
    return context


def _read_key(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise CannotAsk(f"--key-file {path}: {getattr(error, 'strerror', None) or 'not a key'}") from None
