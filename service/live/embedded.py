"""Live states in a file on this machine, read on the event loop and written by one thread. Batches that arrive during a
write share the next one.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import structlog

from msd.contract.rows import RowSide
from service.live.batch import Batch, Outcome
from service.live.errors import LiveError
from service.live.state_file import StateFile
from service.live.store import States

_MAX_BATCHES = 64
_TIMEOUT_S = 5.0


class _Waiting(NamedTuple):
    batch: Batch
    answer: "asyncio.Future[Outcome]"


class EmbeddedStates:
    """The states of one file, which is closed with the store."""

    is_local = True

    def __init__(self, file: StateFile) -> None:
        self._file = file
        self._waiting: list[_Waiting] = []
        self._writing: asyncio.Task[None] | None = None
        # A write transaction belongs to one thread, which also waits for the disk.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="states")
        self._log = structlog.get_logger("msd.live")

    async def get(self, side: RowSide, ids: Sequence[str], deadline: float | None = None) -> States:
        """Read from mapped memory: a read waits for no write."""
        return self._file.read(side, ids)

    def at_hand(self, side: RowSide, ids: Sequence[str]) -> States | None:
        """The same; None where the file cannot be read."""
        try:
            return self._file.read(side, ids)
        except LiveError:
            return None

    async def add(self, batch: Batch) -> Outcome:
        """Return once the batch is on disk. Raises LiveError if it cannot be written, or is not within 5 s."""
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(batch, answer))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await answer
        except TimeoutError:
            raise LiveError(f"events were not on disk within {_TIMEOUT_S:g} s") from None

    async def close(self) -> None:
        """Write all batches that wait, then close the file."""
        if self._writing is not None:
            await self._writing
        self._thread.shutdown()
        self._file.close()

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                together, self._waiting = self._waiting[:_MAX_BATCHES], self._waiting[_MAX_BATCHES:]
                await self._write(together)
        finally:
            self._writing = None

    async def _write(self, together: Sequence[_Waiting]) -> None:
        # A batch whose request has given up is written too: it may be sent again, and then counts as a duplicate.
        batches = [one.batch for one in together]
        try:
            outcomes = await asyncio.get_running_loop().run_in_executor(self._thread, self._file.add, batches)
        except Exception as error:
            self._log.error("events_not_kept", reason=str(error), exc_info=_unless_ours(error))
            failed = error if isinstance(error, LiveError) else LiveError(f"events cannot be written: {error}")
            for one in together:
                if not one.answer.done():
                    one.answer.set_exception(failed)
            return
        for one, outcome in zip(together, outcomes, strict=True):
            if not one.answer.done():
                one.answer.set_result(outcome)


def _unless_ours(error: Exception) -> Exception | None:
    return None if isinstance(error, LiveError) else error
