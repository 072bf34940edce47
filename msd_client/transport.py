"""Transport of the blocking client. Every read and write gets the remaining time of the call, so that a server that
sends bytes slowly cannot stretch it; httpx bounds each of them only separately.
"""

import ssl
import threading
import time
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

_WRITE_BYTES = 65_536


class Clock(threading.local):
    """Deadline of this thread's call."""

    until = 0.0

    def left_s(self) -> float:
        """Return the remaining seconds. Raises httpcore.ReadTimeout if there are none."""
        left_s = self.until - time.monotonic()
        if left_s <= 0:
            raise httpcore.ReadTimeout("deadline exceeded")
        return left_s


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, clock: Clock) -> None:
        self._inner, self._clock = inner, clock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._clock.left_s())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _WRITE_BYTES):
            self._inner.write(buffer[start : start + _WRITE_BYTES], self._clock.left_s())

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, self._clock.left_s()), self._clock)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - httpcore's own form
        return self._inner.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, clock: Clock) -> None:
        self._inner, self._clock = httpcore.SyncBackend(), clock

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        inner = self._inner.connect_tcp(host, port, self._clock.left_s(), local_address, socket_options)
        return _Stream(inner, self._clock)


class DeadlineTransport(httpx.HTTPTransport):
    """Pool of kept connections that ends each call at its deadline."""

    def __init__(self, clock: Clock, context: ssl.SSLContext, limits: httpx.Limits) -> None:
        super().__init__(verify=context, limits=limits, trust_env=False)
        # httpx has no option for its pool's network backend.
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=_Backend(clock),
        )
