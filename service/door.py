"""Refuses scoring requests, while there is too much to do, before anything is made of them: at a refusal for each
request that is scored, what refusals cost is taken from scores. Whatever is unusual about a request goes the usual way.
"""

import time

from starlette.types import Scope

from service.access import request_id_of
from service.admission import Admission
from service.deadline import Deadlines
from service.errors import ErrorResponse, MalformedHeader, Overloaded
from service.metrics import Metrics
from service.protocol import Refusal
from service.readiness import Readiness


class Door:
    """One worker's."""

    def __init__(
        self, admission: Admission, deadlines: Deadlines, readiness: Readiness, metrics: Metrics, path: str
    ) -> None:
        self._admission = admission
        self._deadlines = deadlines
        self._readiness = readiness
        self._metrics = metrics
        self._path = path

    @property
    def is_shut(self) -> bool:
        """Whether there may be requests to refuse."""
        return self._admission.is_shut and self._readiness.can_score

    def refusal(self, scope: Scope, began: float) -> Refusal | None:
        """The reply to a request that came whole, and began then; None where it is to be looked at."""
        if scope["path"] != self._path or scope["method"] != "POST":
            return None
        try:
            self._admission.check_door(self._deadlines.of(scope, began))
        except Overloaded as error:
            response = ErrorResponse(error)
        except MalformedHeader:
            return None
        else:
            return None
        self._metrics.request(response.status, time.perf_counter() - began)
        headers = [*response.headers, (b"x-request-id", request_id_of(scope).encode())]
        return Refusal(response.status, headers, response.body)
