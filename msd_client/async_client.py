"""The asyncio client. Share one among all tasks of a loop; they share its connections."""

import asyncio
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

T = TypeVar("T")


class AsyncClient:
    """As `Client`, with awaitable methods."""

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
        self._ceiling = Ceiling()
        self._http = httpx.AsyncClient(
            base_url=options.base_url(),
            headers=options.headers(),
            transport=httpx.AsyncHTTPTransport(verify=options.tls(), limits=options.limits(), trust_env=False),
            # asyncio's timer bounds the whole call.
            timeout=None,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def score(
        self,
        request: ScoreRequest,
        *,
        deadline_s: float | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> ScoreReply:
        """As `Client.score`."""
        about, options = {"x-request-id": request_id, "traceparent": traceparent}, self._options
        until = options.until(deadline_s)
        return await self._run(call.score(request, about, until, options.retry, self._ceiling))

    async def openrtb(
        self,
        request: OpenrtbRequest,
        *,
        deadline_s: float | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> OpenrtbReply:
        """As `Client.openrtb`."""
        about, options = {"x-request-id": request_id, "traceparent": traceparent}, self._options
        return await self._run(call.openrtb(request, about, options.until(deadline_s), options.retry, self._ceiling))

    async def events(
        self, events: Sequence[Event], *, deadline_s: float | None = None, traceparent: str | None = None
    ) -> EventsReply:
        """As `Client.events`."""
        about = {"traceparent": traceparent}
        return await self._run(call.events(list(events), about, self._options.until(deadline_s), self._options.retry))

    async def ready(self, *, deadline_s: float | None = None) -> Ready:
        """As `Client.ready`."""
        return await self._run(call.ready(self._options.until(deadline_s), self._options.retry))

    async def model(self, *, deadline_s: float | None = None) -> Model:
        """As `Client.model`."""
        return await self._run(call.model(self._options.until(deadline_s), self._options.retry))

    async def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    received = await self._do(step)
                except MsdClientError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(received)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _do(self, step: Send | Pause) -> Received | None:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            async with asyncio.timeout(step.until - time.monotonic()):
                reply = await self._http.request(step.method, step.path, headers=step.headers, content=step.content)
        except TimeoutError as error:
            raise DeadlineExceeded("no reply before the deadline") from error
        except httpx.TransportError as error:
            raise ConnectionFailed(f"{self._options.url}: {error or type(error).__name__}") from error
        return Received(reply.status_code, reply.headers, reply.content)
