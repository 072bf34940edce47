"""The worker's side of the request log: tells the writer of the requests that are sampled, after their replies.

Nothing waits for it: what the writer cannot take now is dropped, and counted.
"""

import asyncio
import time
from contextlib import suppress
from pathlib import Path

from msd.contract.log import is_sampled
from service.frames import MAX_FRAME_BYTES
from service.metrics import Metrics
from service.request_log.message import Served, events_message, request_message
from service.side_client import SideClient, SideError
from service.side_process import side_socket

_MAX_WAITING_BYTES = 16 * 2**20
_PATIENCE_S, _PAUSE_S = 3.0, 0.1


class RequestLog:
    """What is logged of one worker's requests."""

    def __init__(self, side_folder: Path, share: float, metrics: Metrics) -> None:
        self._share = share
        self._metrics = metrics
        self._client = SideClient("writer of the request log", side_socket(side_folder, "log"))

    def wants(self, request_id: str) -> bool:
        """Whether a request is to be logged."""
        return is_sampled(request_id, self._share)

    def request(self, served: Served) -> None:
        """Logs a request, once its reply, which was given to the loop before, is on its way."""
        asyncio.get_running_loop().call_soon(self._tell_request, served)

    def events(self, body: bytes, count: int) -> None:
        """Logs the `count` events of an accepted body of POST /v1/events."""
        is_told = self._tell(events_message(body, time.time()))
        self._metrics.log_events["handed" if is_told else "dropped"].inc(count)

    async def connect(self) -> None:
        """Reaches the writer as soon as it is there, so that the first requests are logged too."""
        while True:
            try:
                await self._client.ask(b"", _PATIENCE_S)
            except SideError:
                await asyncio.sleep(_PAUSE_S)
            else:
                return

    async def close(self) -> None:
        """Ends the connection, when the writer has heard all, or does not in time."""
        with suppress(SideError):
            await self._client.ask(b"", _PATIENCE_S)
        await self._client.close()

    def _tell_request(self, served: Served) -> None:
        try:
            is_told = self._tell(request_message(served))
        except TypeError:  # an id that holds half of a surrogate pair, which no UTF-8 has
            is_told = False
        self._metrics.log_records["handed" if is_told else "dropped"].inc()

    def _tell(self, message: bytes) -> bool:
        return len(message) <= MAX_FRAME_BYTES and self._client.tell(message, _MAX_WAITING_BYTES)
