"""How long a request may take: what its caller grants it, or else what the service does, from its first byte on.

Does not know what draws on it.
"""

from collections.abc import Iterable

from service.errors import MalformedHeader
from service.settings import Settings

FIELD = "X-Deadline-Ms"
_HEADER = FIELD.lower().encode()
_MAX_DIGITS = 9


class Deadlines:
    """The deadlines of requests, as times of `time.perf_counter`."""

    __slots__ = ("_default_s", "_most_ms")

    def __init__(self, settings: Settings) -> None:
        self._default_s = settings.deadline_ms / 1000
        self._most_ms = settings.max_deadline_ms

    def of(self, headers: Iterable[tuple[bytes, bytes]], began: float, otherwise_s: float | None = None) -> float:
        """When a request with these, that began then, has to be answered. Raises MalformedHeader.

        `otherwise_s`: what its caller grants where the header does not say.
        """
        granted: bytes | None = None
        for name, value in headers:
            if name == _HEADER:
                if granted is not None:
                    raise MalformedHeader("is given twice", FIELD)
                granted = value
        if granted is not None:
            return began + self._seconds(granted)
        return began + (self._default_s if otherwise_s is None else otherwise_s)

    def _seconds(self, granted: bytes) -> float:
        digits = granted.strip()
        if digits.isdigit() and len(digits) <= _MAX_DIGITS and 1 <= int(digits) <= self._most_ms:
            return int(digits) / 1000
        shown = granted[:40].decode("latin-1")
        refused = MalformedHeader(f"{shown!r} is not a whole number of milliseconds from 1 to {self._most_ms}", FIELD)
        # For programs that would rather ask for as much as there is.
        refused.headers = ((_HEADER, b"%d" % self._most_ms),)
        raise refused
