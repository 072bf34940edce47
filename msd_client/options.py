"""Options of a client: address, key, certificates, deadline and retries; validated here."""

import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from msd_client.errors import InvalidSettings
from msd_client.retry import Retry

IDLE_S = 4.0
"""Seconds that an idle connection is kept: slightly less than the service keeps it."""
_LONGEST_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`deadline_s` is the default of calls. `ca_file` replaces the system's authorities; `cert_file` and `key_file` are
    the client certificate for mutual TLS."""

    url: str
    api_key: str | None = field(default=None, repr=False)
    deadline_s: float = 1.0
    retry: Retry = field(default_factory=Retry)
    max_connections: int = 100
    ca_file: Path | str | None = None
    cert_file: Path | str | None = None
    key_file: Path | str | None = None

    def base_url(self) -> httpx.URL:
        """Return the address. Raises InvalidSettings."""
        try:
            url = httpx.URL(self.url)
        except (httpx.InvalidURL, TypeError) as error:
            raise InvalidSettings(f"{self.url!r} is not an address: {error}") from None
        if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
            raise InvalidSettings(f"{self.url!r} is not a service's address, such as https://ctr.example:8080")
        if self.max_connections < 1:
            raise InvalidSettings("max_connections has to be at least 1")
        self.until(None)
        return url

    def headers(self) -> dict[str, str]:
        """Return the headers of every request."""
        headers = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "msd-client"}
        if self.api_key is None:
            return headers
        if not self.api_key or not self.api_key.isascii() or not self.api_key.isprintable():
            raise InvalidSettings("api_key must be printable ASCII characters")
        return headers | {"authorization": f"Bearer {self.api_key}"}

    def tls(self) -> ssl.SSLContext:
        """Return the TLS context. Raises InvalidSettings for invalid files."""
        if self.key_file is not None and self.cert_file is None:
            raise InvalidSettings("key_file needs cert_file")
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except OSError as error:  # includes ssl's own errors
            files = ", ".join(str(file) for file in (self.ca_file, self.cert_file, self.key_file) if file)
            raise InvalidSettings(f"{files}: {error}") from None
        return context

    def limits(self) -> httpx.Limits:
        """Return the limits of connections."""
        return httpx.Limits(
            max_connections=self.max_connections,
            max_keepalive_connections=self.max_connections,
            keepalive_expiry=IDLE_S,
        )

    def until(self, deadline_s: float | None) -> float:
        """Return the deadline of a call that begins now, by `time.monotonic`."""
        seconds = self.deadline_s if deadline_s is None else deadline_s
        if not 0 < seconds <= _LONGEST_S:
            raise InvalidSettings(f"invalid deadline {seconds} s: must be above 0 and at most a day")
        return time.monotonic() + seconds
