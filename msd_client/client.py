"""The blocking client. Share one among threads; they share its connections."""

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import httpx

from msd_client import call
from msd_client.call import Pause, Received, Send, Steps
from msd_client.ceiling import Ceiling
from msd_client.errors import ConnectionFailed, DeadlineExceeded, MsdClientError
from msd_client.options import Options
from msd_client.replies import EventsReply, Model, OpenrtbReply, Ready, ScoreReply
from msd_client.requests import Event, OpenrtbRequest, ScoreRequest
from msd_client.retry import Retry
from msd_client.transport import Clock, DeadlineTransport

T = TypeVar("T")


class Client:
    """`with Client("http://127.0.0.1:8080") as client: client.score(ScoreRequest(user_id="u7", ids=["a1", "a2"]))`."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        deadline_s: float = 1.0,
        retry: Retry | None = None,
        max_connections: int = 100,
        ca_file: Path | str | None = None,
        cert_file: Path | str | None = None,
        key_file: Path | str | None = None,
    ) -> None:
        """Raises InvalidSettings. `deadline_s`: default of calls."""
        self._options = options = Options(
            url=url,
            api_key=api_key,
            deadline_s=deadline_s,
            retry=retry or Retry(),
            max_connections=max_connections,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
        )
        self._clock = Clock()
        self._ceiling = Ceiling()
        self._http = httpx.Client(
            base_url=options.base_url(),
            headers=options.headers(),
            transport=DeadlineTransport(self._clock, options.tls(), options.limits()),
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def score(
        self,
        request: ScoreRequest,
        *,
        deadline_s: float | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> ScoreReply:
        """Return the scores. `request_id` and `traceparent` (W3C) are sent along. Raises MsdClientError."""
        about, options = {"x-request-id": request_id, "traceparent": traceparent}, self._options
        until = options.until(deadline_s)
        return self._run(call.score(request, about, until, options.retry, self._ceiling))

    def openrtb(
        self,
        request: OpenrtbRequest,
        *,
        deadline_s: float | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> OpenrtbReply:
        """Return the scores of a BidRequest's impressions. Raises MsdClientError."""
        about, options = {"x-request-id": request_id, "traceparent": traceparent}, self._options
        return self._run(call.openrtb(request, about, options.until(deadline_s), options.retry, self._ceiling))

    def events(
        self, events: Sequence[Event], *, deadline_s: float | None = None, traceparent: str | None = None
    ) -> EventsReply:
        """Send events, at most 1,000 at once; when this returns, they are durable. Raises MsdClientError."""
        about = {"traceparent": traceparent}
        return self._run(call.events(list(events), about, self._options.until(deadline_s), self._options.retry))

    def ready(self, *, deadline_s: float | None = None) -> Ready:
        """Return whether requests should be sent, and if not, what is missing. Raises MsdClientError."""
        return self._run(call.ready(self._options.until(deadline_s), self._options.retry))

    def model(self, *, deadline_s: float | None = None) -> Model:
        """Return what is served. Raises MsdClientError."""
        return self._run(call.model(self._options.until(deadline_s), self._options.retry))

    def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    received = self._do(step)
                except MsdClientError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(received)
        except StopIteration as end:
            result: T = end.value
            return result

    def _do(self, step: Send | Pause) -> Received | None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        self._clock.until = step.until
        left_s = max(0.0, step.until - time.monotonic())
        try:
            reply = self._http.request(
                step.method, step.path, headers=step.headers, content=step.content, timeout=left_s
            )
        except httpx.TimeoutException as error:
            raise DeadlineExceeded("no reply before the deadline") from error
        except httpx.TransportError as error:
            raise ConnectionFailed(f"{self._options.url}: {error or type(error).__name__}") from error
        return Received(reply.status_code, reply.headers, reply.content)
