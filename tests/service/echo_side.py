"""A side process for tests: gives back what it is told, behind its process id; `fall` ends it without a word, and
`last words` are written at its end, into the file that they name."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from service.metrics import Metrics
from service.settings import Settings
from service.side_server import Handler, run_side_process


@asynccontextmanager
async def echo(settings: Settings, metrics: Metrics) -> AsyncIterator[Handler]:
    """Answers after as many seconds as the message says first."""
    last_words: list[str] = []

    async def answer(payload: bytes) -> bytes:
        seconds, _, text = payload.decode().partition(" ")
        if text == "fall":
            os._exit(9)
        if text == "fail":
            raise RuntimeError("as asked")
        if text.startswith("last words "):
            last_words.append(text)
        await asyncio.sleep(float(seconds))
        metrics.store_errors.inc()
        return b"%d %s" % (os.getpid(), text.encode())

    yield answer
    for words in last_words:
        Path(words.removeprefix("last words ")).write_text(settings.bundle.name)


if __name__ == "__main__":
    run_side_process("recorder", sys.argv[1:], echo)
