"""One request that came whole over a connection, and the one write that answers it, without ASGI in between."""

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

BEGAN = "msd.began"
_CLOSE = (b"connection", b"close")


class Exchange:
    """Over uvicorn's side of the request."""

    __slots__ = ("_cycle", "body", "scope")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self.scope: Scope = cycle.scope  # type: ignore[assignment]
        self.body = bytes(cycle.body)

    @property
    def began(self) -> float:
        """When its first byte was read, by `time.perf_counter`."""
        return float(self.scope[BEGAN])

    @property
    def is_clogged(self) -> bool:
        """Whether the client does not take earlier replies, so that another would have to wait."""
        return self._cycle.flow.write_paused

    def is_gone(self) -> bool:
        """Whether the client has left. For any thread."""
        return self._cycle.transport.is_closing()

    def reply(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Writes the whole reply; the connection goes on to its next request, or ends."""
        cycle = self._cycle
        if cycle.disconnected:
            return
        is_last = not cycle.keep_alive or _CLOSE in headers
        parts = [STATUS_LINE[status]]
        for name, value in (*cycle.default_headers, *headers):
            parts += (name, b": ", value, b"\r\n")
        is_told = _CLOSE in headers or _CLOSE in cycle.default_headers
        if is_last and not is_told:
            parts.append(b"connection: close\r\n")
        cycle.transport.write(b"".join((*parts, b"\r\n", body)))
        cycle.response_started = cycle.response_complete = True
        if is_last or is_told:
            cycle.transport.close()
        cycle.on_response()

    def abandon(self) -> None:
        """Ends the connection, for nobody is there to answer any more."""
        self._cycle.transport.close()
