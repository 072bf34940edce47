"""The clients: blocking, to share among threads, and asynchronous, to share among the tasks of a loop. Who shares a
client shares its connections.
"""

import asyncio
import ssl
import time
from collections.abc import Sequence
from typing import Self, TypeVar

import httpx

from msd_client.call import Calls, Steps
from msd_client.replies import (
    EventsReply,
    ItemsReply,
    Model,
    OpenrtbReply,
    Ready,
    ScoreReply,
    read_events,
    read_items,
    read_model,
    read_openrtb,
    read_ready,
    read_score,
)
from msd_client.requests import CatalogueItem, Event, OpenrtbRequest, ScoreRequest, events_body, items_body
from msd_client.transport import Clock, DeadlineTransport

T = TypeVar("T")


class Client(Calls):
    """`with Client("http://127.0.0.1:8080") as client: client.score(ScoreRequest(user_id="u7", ids=["a1", "a2"]))`."""

    def _connect(self, url: httpx.URL, headers: dict[str, str], tls: ssl.SSLContext, limits: httpx.Limits) -> None:
        self._clock = Clock()
        self._http = httpx.Client(
            base_url=url,
            headers=headers,
            transport=DeadlineTransport(self._clock, tls, limits),
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
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
        return self._run(self._post("/v1/score", request.body(), read_score, deadline_s, traceparent, request_id))

    def openrtb(
        self,
        request: OpenrtbRequest,
        *,
        deadline_s: float | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> OpenrtbReply:
        """Return the scores of a BidRequest's impressions. Raises MsdClientError."""
        return self._run(self._post("/v1/openrtb", request.body(), read_openrtb, deadline_s, traceparent, request_id))

    def events(
        self, events: Sequence[Event], *, deadline_s: float | None = None, traceparent: str | None = None
    ) -> EventsReply:
        """Send events, at most 1,000 at once; when this returns, they are durable. Raises MsdClientError."""
        return self._run(self._post("/v1/events", events_body(events), read_events, deadline_s, traceparent))

    def items(self, items: Sequence[CatalogueItem], *, deadline_s: float | None = None) -> ItemsReply:
        """Describe, teach about or remove items, at most 1,000 at once; when this returns, they are durable. Raises
        MsdClientError."""
        return self._run(self._post("/v1/items", items_body(items), read_items, deadline_s, None))

    def ready(self, *, deadline_s: float | None = None) -> Ready:
        """Return whether requests should be sent, and if not, what is missing. Raises MsdClientError."""
        return self._run(self._get("/health/ready", read_ready, deadline_s, (200, 503)))

    def model(self, *, deadline_s: float | None = None) -> Model:
        """Return what is served. Raises MsdClientError."""
        return self._run(self._get("/v1/model", read_model, deadline_s))

    def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                time.sleep(step.wait_s)
                self._clock.until = step.until
                # The clock bounds the rest.
                timeout = httpx.Timeout(None, pool=max(0.0, step.until - time.monotonic()))
                try:
                    reply = self._http.request(
                        step.method, step.path, headers=step.headers, content=step.content, timeout=timeout
                    )
                except httpx.RequestError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result


class AsyncClient(Calls):
    """As `Client`, with awaitable methods."""

    def _connect(self, url: httpx.URL, headers: dict[str, str], tls: ssl.SSLContext, limits: httpx.Limits) -> None:
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            transport=httpx.AsyncHTTPTransport(verify=tls, limits=limits, trust_env=False),
            # asyncio's timer bounds the whole call.
            timeout=None,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
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
        return await self._run(self._post("/v1/score", request.body(), read_score, deadline_s, traceparent, request_id))

    async def openrtb(
        self,
        request: OpenrtbRequest,
        *,
        deadline_s: float | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> OpenrtbReply:
        """As `Client.openrtb`."""
        return await self._run(
            self._post("/v1/openrtb", request.body(), read_openrtb, deadline_s, traceparent, request_id)
        )

    async def events(
        self, events: Sequence[Event], *, deadline_s: float | None = None, traceparent: str | None = None
    ) -> EventsReply:
        """As `Client.events`."""
        return await self._run(self._post("/v1/events", events_body(events), read_events, deadline_s, traceparent))

    async def items(self, items: Sequence[CatalogueItem], *, deadline_s: float | None = None) -> ItemsReply:
        """As `Client.items`."""
        return await self._run(self._post("/v1/items", items_body(items), read_items, deadline_s, None))

    async def ready(self, *, deadline_s: float | None = None) -> Ready:
        """As `Client.ready`."""
        return await self._run(self._get("/health/ready", read_ready, deadline_s, (200, 503)))

    async def model(self, *, deadline_s: float | None = None) -> Model:
        """As `Client.model`."""
        return await self._run(self._get("/v1/model", read_model, deadline_s))

    async def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                await asyncio.sleep(step.wait_s)
                try:
                    async with asyncio.timeout(step.until - time.monotonic()):
                        reply = await self._http.request(
                            step.method, step.path, headers=step.headers, content=step.content
                        )
                except (TimeoutError, httpx.RequestError) as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result
