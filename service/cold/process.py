"""The encoder's process: texts in, vectors out, at the lowest priority that the system has.

Run as `python -m service.cold.process` by `side_process` alone.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from msd.contract.errors import MsdError
from service.cold.encoders import Encoders
from service.cold.encoding import Encoding
from service.cold.messages import Question, pack_answer
from service.lineup.source import Source
from service.metrics import Metrics
from service.settings import Settings
from service.side_server import Handler, run_side_process
from service.trust import Trust

_NICE = 19


@asynccontextmanager
async def encoder(settings: Settings, metrics: Metrics) -> AsyncIterator[Handler]:
    """Answers questions of workers; those of the bundles that the service starts with are loaded at once."""
    encoders = Encoders()
    shelf = None
    if settings.encoded_ttl_s and settings.redis_url is not None:
        from service.cold.shelf import RedisShelf

        url, timeout_s = settings.redis_url.get_secret_value(), settings.store_timeout_ms / 1000
        shelf = RedisShelf(url, timeout_s, settings.encoded_ttl_s, metrics)
    encoding = Encoding(encoders, metrics, settings.encoder_per_s, settings.encoder_queue, shelf)

    async def answer(payload: bytes) -> bytes:
        return pack_answer(await encoding.ask(Question.unpack(payload)))

    tasks = [asyncio.create_task(encoding.run()), asyncio.create_task(_load_first(encoders, settings))]
    try:
        yield answer
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        encoders.close()
        if shelf is not None:
            await shelf.close()


async def _load_first(encoders: Encoders, settings: Settings) -> None:
    # What is wrong is in the log; whoever asks hears of it.
    with suppress(MsdError):
        trust = Trust(settings.trusted_keys)
        for folder in Source(settings).wanted().folders:
            bundle = trust.open(folder, rows=False)
            if bundle.encoder_identity is not None:
                await encoders.get(bundle.folder, bundle.manifest.sha256, bundle.encoder_identity)


def step_back() -> None:
    """Leaves the processors to whoever wants them: this process runs when they would have nothing to do."""
    os.nice(_NICE)
    if hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):  # a sandbox may forbid it; then the above has to do
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


if __name__ == "__main__":
    step_back()
    # Or the tokenizer has threads of its own, as many as there are cores.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    run_side_process("encoder", sys.argv[1:], encoder)
