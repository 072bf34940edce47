"""Refuses scoring requests, while there is too much to do, before anything is made of them: at two refusals for each
request that is scored, what refusals cost is taken from scores. Whatever is unusual about a request goes the usual way.
"""

import time
from collections.abc import Callable

from service.access import request_id_of
from service.admission import Admission, Load
from service.deadline import Deadlines
from service.errors import ErrorResponse, MalformedHeader, Overloaded
from service.glance import Glancer
from service.metrics import Metrics
from service.readiness import Readiness


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
            self._admission.check(self._expected(glance.size), self._deadlines.of(glance.headers, began))
        except Overloaded as error:
            response = ErrorResponse(error)
        except MalformedHeader:
            return None
        else:
            return None
        self._metrics.request(response.status, time.perf_counter() - began)
        lines = b"".join([b"%b: %b\r\n" % header for header in response.headers])
        return b"%bx-request-id: %b\r\n\r\n%b" % (lines, request_id_of(glance.headers).encode(), response.body)
