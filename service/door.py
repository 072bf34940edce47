"""Refuses scoring requests, while there is too much to do, before anything is made of them: at two refusals for each
request that is scored, what refusals cost is taken from scores. Whatever is unusual about a request goes the usual way.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from service.access import request_id_of
from service.admission import Admission, Load
from service.deadline import Deadlines
from service.errors import ErrorResponse, MalformedHeader, Overloaded
from service.glance import Glancer
from service.metrics import Metrics
from service.readiness import Readiness

# What comes within so long of a refusal, has no more time and no fewer bytes, is refused by the same look at the queue:
# all that a run has kept waiting comes at once.
_HOLDS_S = 0.001


class _Refused(NamedTuple):
    """The latest refusal: until when it holds, for whom, and what it says. Seconds, bytes of a body."""

    until: float
    granted: float
    size: int
    status: int
    headers: bytes
    body: bytes


class Door:
    """One worker's. `expected`: what a body of so many bytes is expected to ask for."""

    def __init__(
        self,
        admission: Admission,
        expected: Callable[[int], Load],
        deadlines: Deadlines,
        readiness: Readiness,
        metrics: Metrics,
        path: str,
    ) -> None:
        self._admission = admission
        self._expected = expected
        self._deadlines = deadlines
        self._readiness = readiness
        self._metrics = metrics
        self._glancer = Glancer(path)
        self._latest = _Refused(0.0, 0.0, 0, 0, b"", b"")

    @property
    def is_watched(self) -> bool:
        """Whether there may be requests to refuse."""
        return self._admission.is_shedding and self._readiness.is_ready

    def refusal(self, data: bytes) -> bytes | None:
        """The reply, without what all replies begin with, to a request that has just come; None where it is to be
        looked at."""
        began = time.perf_counter()
        glance = self._glancer.look(data)
        if glance is None:
            return None
        try:
            deadline = self._deadlines.of(glance.headers, began)
        except MalformedHeader:
            return None
        latest = self._latest
        if began < latest.until and deadline - began <= latest.granted and glance.size >= latest.size:
            self._admission.shed("wait")
        else:
            try:
                self._admission.check(self._expected(glance.size), deadline)
            except Overloaded as error:
                latest = self._latest = _refused(error, began, deadline - began, glance.size)
            else:
                return None
        self._metrics.request(latest.status, time.perf_counter() - began)
        return b"%bx-request-id: %b\r\n\r\n%b" % (latest.headers, request_id_of(glance.headers).encode(), latest.body)


def _refused(error: Overloaded, at: float, granted: float, size: int) -> _Refused:
    response = ErrorResponse(error)
    headers = b"".join([b"%b: %b\r\n" % header for header in response.headers])
    return _Refused(at + _HOLDS_S, granted, size, response.status, headers, response.body)
