"""The encoders that are loaded, by their identity: a few at a time, so that a swap of bundles needs no new process.

Loading and encoding happen in one thread, beside which the process goes on answering.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import structlog

from msd.contract.errors import BundleError, MsdError
from service.cold.text_encoder import TextEncoder
from service.trust import Trust

_MOST = 3
_REFUSED_S = 10.0
Result = TypeVar("Result")


class EncoderAway(MsdError):
    """The encoder of a bundle cannot be had; why is in the log."""


class Encoders:
    """Loads encoders when they are asked for; those asked for least make room."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._loaded: OrderedDict[str, TextEncoder] = OrderedDict()
        self._refused: dict[str, float] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._log = structlog.get_logger("msd.encoder")

    async def get(self, folder: Path, identity: str) -> TextEncoder:
        """The encoder of that identity, which is in the bundle in `folder`. Raises EncoderAway; then it is not tried
        again for a while."""
        if identity in self._loaded:
            self._loaded.move_to_end(identity)
            return self._loaded[identity]
        if time.monotonic() < self._refused.get(identity, 0.0):
            raise EncoderAway(f"{folder}: its encoder was refused")
        try:
            encoder = await self.in_thread(_load, self._trust, folder, identity)
        except Exception as error:
            self._refused = {identity: time.monotonic() + _REFUSED_S}
            self._log.error("encoder_refused", bundle=str(folder), reason=str(error), again_in=_REFUSED_S)
            raise EncoderAway(f"{folder}: {error}") from error
        self._loaded[identity] = encoder
        if len(self._loaded) > _MOST:
            self._loaded.popitem(last=False)
        self._log.info("encoder_ready", bundle=str(folder))
        return encoder

    async def in_thread(self, work: Callable[..., Result], *arguments: object) -> Result:
        """What the work gives, done in the one thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def close(self) -> None:
        """Lets what is at hand end."""
        self._thread.shutdown(wait=True, cancel_futures=True)


def _load(trust: Trust, folder: Path, identity: str) -> TextEncoder:
    bundle = trust.open(folder, rows=False)
    if bundle.encoder_identity != identity:
        raise BundleError(f"{folder}: holds another bundle than the one that asks")
    return TextEncoder(bundle)
