"""Clients that send byte by byte, stop in the middle, or vanish; other clients are unaffected."""

import socket
import struct
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from lab.chaos.scenario import Check, Figure, UnderLoad
from loadtest.http_client import ClientError, wait_until
from msd.process import held

_TIMEOUT_S = 1.0
_DROP_S = 0.2
_RESET = struct.pack("ii", 1, 0)
_PATIENCE_S = 30.0


class BadClients(UnderLoad):
    """Slow clients are disconnected in the end, and nothing remains of any."""

    name = "clients"
    title = "Slow clients, and clients that vanish"
    files_before = files_growth = vanished = left = 0

    def settings(self) -> Mapping[str, Any]:
        return {"HEAD_TIMEOUT_S": _TIMEOUT_S, "BODY_TIMEOUT_S": _TIMEOUT_S}

    def before(self) -> None:
        self.files_before = held(self.service.pid).files

    def disturb(self) -> None:
        number = self.plan.slow_clients
        start = self.load.mark(f"{number} slow clients, {number} that stop, others that vanish")
        # They send a head byte by byte.
        slow = self._sent(number, [b"POST /v1/score HTTP/1.1\r\nHost: service\r\nX: "])
        # They send a request without its last byte.
        stuck = self._sent(number, [request[:-1] for request in self.target.requests])
        while self.load.now_s < start + self.plan.broken_s:
            for one in slow:
                with suppress(OSError):
                    one.send(b"x")
            self._vanish(number // 10 + 1)
            time.sleep(_DROP_S)
        self.load.mark("they are gone")
        self.left = sum(not _is_closed(one) for one in (*slow, *stuck))

    def after(self) -> None:
        with suppress(ClientError):
            wait_until("connections end", lambda: held(self.service.pid).files <= self.files_before, _PATIENCE_S)
        self.files_growth = held(self.service.pid).files - self.files_before

    def figures(self) -> Mapping[str, Figure]:
        return self.named(
            slow=2 * self.plan.slow_clients, vanished=self.vanished, left_open=self.left, files_growth=self.files_growth
        )

    def checks(self) -> Iterable[Check]:
        yield Check("every slow client is disconnected in the end", self.left == 0)
        yield Check("none of their connections stays open", self.files_growth <= 0)

    def _connection(self) -> socket.socket:
        return socket.create_connection(self.target.place, timeout=_PATIENCE_S)

    def _sent(self, number: int, what: list[bytes]) -> list[socket.socket]:
        found = [self._connection() for _ in range(number)]
        for place, one in enumerate(found):
            one.sendall(what[place % len(what)])
        return found

    def _vanish(self, number: int) -> None:
        """Send whole requests and reset before a reply."""
        for place in range(number):
            with self._connection() as one:
                one.sendall(self.target.requests[place % len(self.target.requests)])
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.vanished += number


def _is_closed(one: socket.socket) -> bool:
    """Return whether the service has closed it, with or without an answer."""
    with one:
        try:
            while one.recv(65_536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True
