"""Validated settings of a client: retries, address, key, certificates and limits."""

import random
import ssl
from dataclasses import dataclass
from pathlib import Path

import httpx

from msd_client.errors import ConnectionFailed, InvalidSettings, MsdClientError, Overloaded, Unavailable

_IDLE_S = 4.0  # slightly less than the service keeps an idle connection
# Larger exponents would overflow a float.
_MOST_DOUBLINGS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """At most `attempts` in total; `first_s` is the longest wait before the second, and doubles up to `most_s`.

    Failed connections, and refusals with Retry-After, are retried: repeating is safe, because scoring is read-only and
    events have IDs. A missed deadline is never retried: there is no time left.
    """

    attempts: int = 3
    first_s: float = 0.02
    most_s: float = 1.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 <= self.first_s <= self.most_s:
            raise InvalidSettings("a retry has at least one attempt, and waits of 0 <= first_s <= most_s")

    def wait_s(self, error: MsdClientError, attempt: int) -> float | None:
        """Return the wait after a failed attempt (from 1); None if it is not retried."""
        if attempt >= self.attempts:
            return None
        # Random up to the bound, so that clients that failed together do not return together.
        jitter: float = random.uniform(0, min(self.most_s, self.first_s * 2.0 ** min(attempt - 1, _MOST_DOUBLINGS)))
        if isinstance(error, ConnectionFailed):
            return jitter
        if isinstance(error, Overloaded | Unavailable) and error.retry_after_s is not None:
            return error.retry_after_s + jitter
        return None


def base_url(address: str) -> httpx.URL:
    """Return the address. Raises InvalidSettings."""
    try:
        url = httpx.URL(address)
    except (httpx.InvalidURL, TypeError) as error:
        raise InvalidSettings(f"{address!r} is not an address: {error}") from None
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise InvalidSettings(f"{address!r} is not a service's address, such as https://ctr.example:8080")
    return url


def headers(api_key: str | None) -> dict[str, str]:
    """Return the headers of every request. Raises InvalidSettings."""
    given = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "msd-client"}
    if api_key is None:
        return given
    if not api_key or not api_key.isascii() or not api_key.isprintable():
        raise InvalidSettings("api_key must be printable ASCII characters")
    return given | {"authorization": f"Bearer {api_key}"}


def tls(ca_file: Path | str | None, cert_file: Path | str | None, key_file: Path | str | None) -> ssl.SSLContext:
    """Return the TLS context. Raises InvalidSettings for invalid files."""
    if key_file is not None and cert_file is None:
        raise InvalidSettings("key_file needs cert_file")
    try:
        context = ssl.create_default_context(cafile=ca_file)
        if cert_file is not None:
            context.load_cert_chain(cert_file, key_file)
    except OSError as error:  # includes ssl's own errors
        files = ", ".join(str(file) for file in (ca_file, cert_file, key_file) if file)
        raise InvalidSettings(f"{files}: {error}") from None
    return context


def limits(max_connections: int) -> httpx.Limits:
    """Return the limits of connections. Raises InvalidSettings."""
    if max_connections < 1:
        raise InvalidSettings("max_connections has to be at least 1")
    return httpx.Limits(
        max_connections=max_connections, max_keepalive_connections=max_connections, keepalive_expiry=_IDLE_S
    )
