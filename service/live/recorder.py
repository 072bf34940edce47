"""The side process that alone writes the file of live states: events that come while it writes are written together.

Run as `python -m service.live.recorder …` by `side_process` alone.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import orjson
import structlog

from service.live.batch import Batch, Outcome
from service.live.choice import open_state_file
from service.live.errors import LiveError
from service.live.state_file import StateFile
from service.metrics import Metrics
from service.settings import Settings
from service.side_server import Handler, run_side_process

_MOST_TOGETHER = 64
DONE, FAILED = b"+", b"-"


class Recorder:
    """Answers each batch once it lasts, or why it does not."""

    def __init__(self, file: StateFile) -> None:
        self._file = file
        self._waiting: list[tuple[bytes, asyncio.Future[bytes]]] = []
        self._writing: asyncio.Task[None] | None = None
        # A transaction belongs to one thread; this one waits for the disk in the place of all.
        self._thread = ThreadPoolExecutor(1, "writer")
        self._log = structlog.get_logger("msd.recorder")

    async def take(self, packed: bytes) -> bytes:
        """The outcome of a packed batch behind DONE, or a reason behind FAILED."""
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append((packed, answer))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        return await answer

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                together, self._waiting = self._waiting[:_MOST_TOGETHER], self._waiting[_MOST_TOGETHER:]
                replies = await asyncio.get_running_loop().run_in_executor(
                    self._thread, self._write, [packed for packed, _ in together]
                )
                for (_, answer), reply in zip(together, replies, strict=True):
                    if not answer.done():
                        answer.set_result(reply)
        finally:
            self._writing = None

    def _write(self, packed: Sequence[bytes]) -> list[bytes]:
        try:
            outcomes = self._file.add([Batch.unpack(one) for one in packed])
        except LiveError as error:
            self._log.error("events_not_kept", reason=str(error))
            return [FAILED + str(error).encode()] * len(packed)
        return [DONE + orjson.dumps(tuple(outcome)) for outcome in outcomes]


def outcome_of(reply: bytes) -> Outcome:
    """What a reply of the recorder says. Raises LiveError where the batch was not kept."""
    if reply[:1] != DONE:
        raise LiveError(reply[1:].decode("utf-8", "replace"))
    return Outcome(*orjson.loads(reply[1:]))


@asynccontextmanager
async def recorder(settings: Settings, _: Metrics) -> AsyncIterator[Handler]:
    """Raises LiveError when states cannot be kept."""
    file = open_state_file(settings, is_writer=True)
    try:
        yield Recorder(file).take
    finally:
        file.close()


if __name__ == "__main__":
    run_side_process("recorder", sys.argv[1:], recorder)
