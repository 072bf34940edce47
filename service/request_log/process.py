"""The process that writes the request log, run by the supervisor where `MSD_LOG_DIR` is set.

Its place is behind those who answer requests: it takes what processor time they leave.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.metrics import Metrics
from service.request_log.folder import LogFolder
from service.request_log.writer import LogWriter
from service.settings import Settings
from service.side_server import Handler, run_side_process

_TICK_S = 1.0
_NICENESS = 10


@asynccontextmanager
async def opened_log(settings: Settings, metrics: Metrics) -> AsyncIterator[Handler]:
    """What takes the workers' messages; at the end all that was told is in files. Raises LogFolderError."""
    assert settings.log_dir is not None, "it is run where there is a log"
    os.nice(_NICENESS)
    folder = LogFolder(settings.log_dir, settings.log_max_mb * 2**20, settings.log_max_days * 86_400.0)
    writer = LogWriter(folder, metrics, settings.log_sample, settings.log_flush_seconds)

    async def take(message: bytes) -> bytes:
        # An empty one asks whether anybody is here.
        if message:
            writer.take(message)
        return b""

    async def tick() -> None:
        while True:
            await asyncio.sleep(min(_TICK_S, settings.log_flush_seconds))
            writer.tick()

    ticking = asyncio.create_task(tick())
    try:
        yield take
    finally:
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
        writer.flush()
        folder.close()


if __name__ == "__main__":
    run_side_process("log", sys.argv[1:], opened_log)
