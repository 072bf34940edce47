"""The most time that the service grants a request, as far as it has said. Knows headers, and nothing else of HTTP."""

import logging
from collections.abc import Mapping
from threading import Lock

DEADLINE = "x-deadline-ms"
_MAX_DIGITS = 9
_LOG = logging.getLogger("msd_client")


class Ceiling:
    """What all calls of one client know of it."""

    def __init__(self) -> None:
        self._most_ms: int | None = None
        self._lock = Lock()

    def lowered(self, wanted_ms: int) -> int:
        """What to ask for."""
        return wanted_ms if self._most_ms is None else min(wanted_ms, self._most_ms)

    def learn(self, headers: Mapping[str, str], asked_ms: int) -> bool:
        """Whether a refusal with these headers grants less than was asked for; the log says so when it is new."""
        told = headers.get(DEADLINE, "")
        if not (told.isascii() and told.isdigit() and len(told) <= _MAX_DIGITS and 0 < int(told) < asked_ms):
            return False
        with self._lock:
            is_new = self.lowered(asked_ms) > int(told)
            if is_new:
                self._most_ms = int(told)
        if is_new:
            _LOG.warning("the service lets a request take %s ms at most, so it is asked for no more from now on", told)
        return True
