"""The service's maximum deadline, as far as it is known. Knows only HTTP headers."""

import logging
from collections.abc import Mapping
from threading import Lock

DEADLINE = "x-deadline-ms"
_MAX_DIGITS = 9
_LOG = logging.getLogger("msd_client")


class Ceiling:
    """The maximum, shared by all calls of a client."""

    def __init__(self) -> None:
        self._most_ms: int | None = None
        self._lock = Lock()

    def lowered(self, wanted_ms: int) -> int:
        """Return the deadline to request."""
        return wanted_ms if self._most_ms is None else min(wanted_ms, self._most_ms)

    def learn(self, headers: Mapping[str, str], asked_ms: int) -> bool:
        """Return whether a refusal's headers grant less than requested; the log reports a new maximum."""
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
