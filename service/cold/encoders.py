"""The encoders that are loaded, by their identity: a few at a time, for bundles that follow one another.

Loading and encoding happen in one thread of low priority, beside the event loop.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import structlog

from msd.contract.bundle import ENCODER, TOKENIZER, Bundle
from msd.contract.errors import BundleError, MsdError
from msd.contract.files import sha256_file
from service.cold.text_encoder import TextEncoder
from service.cores import give_way

_MOST = 3
_REFUSED_S = 10.0
Result = TypeVar("Result")


class EncoderAway(MsdError):
    """The encoder of a bundle cannot be had; why is in the log."""


class Encoders:
    """Loads encoders when they are asked for; those asked for least make room."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[str, TextEncoder] = OrderedDict()
        self._refused: dict[tuple[Path, str], float] = {}
        self._loading = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder", initializer=give_way)
        self._log = structlog.get_logger("msd.encoder")

    async def get(self, bundle: Bundle) -> TextEncoder:
        """The encoder of a verified bundle. Raises EncoderAway; then it is not tried again for a while."""
        # Or two who want the same one load it twice.
        async with self._loading:
            return await self._get(bundle)

    async def in_thread(self, work: Callable[..., Result], *arguments: object) -> Result:
        """What the work gives, done in the one thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    async def close(self) -> None:
        """Waits for what the thread has at hand."""
        await asyncio.to_thread(self._thread.shutdown, True, cancel_futures=True)

    async def _get(self, bundle: Bundle) -> TextEncoder:
        folder, manifest_sha256, identity = bundle.folder, bundle.manifest.sha256, bundle.encoder_identity
        if identity is None:
            raise EncoderAway(f"{folder}: has no encoder")
        if identity in self._loaded:
            self._loaded.move_to_end(identity)
            return self._loaded[identity]
        if time.monotonic() < self._refused.get((folder, manifest_sha256), 0.0):
            raise EncoderAway(f"{folder}: its encoder was refused")
        try:
            encoder = await self.in_thread(_load, bundle)
        except Exception as error:
            self._refused[folder, manifest_sha256] = time.monotonic() + _REFUSED_S
            self._log.error("encoder_refused", bundle=str(folder), reason=str(error), again_in=_REFUSED_S)
            raise EncoderAway(f"{folder}: {error}") from error
        self._loaded[identity] = encoder
        if len(self._loaded) > _MOST:
            self._loaded.popitem(last=False)
        self._log.info("encoder_ready", bundle=str(folder))
        return encoder


def _load(bundle: Bundle) -> TextEncoder:
    for name in (ENCODER, TOKENIZER):
        # Where files are not held open for it, they may have changed since they were verified.
        if sha256_file(bundle.path(name)) != bundle.manifest.files[name].sha256:
            raise BundleError(f"{bundle.path(name)}: its SHA-256 is not the manifest's; it was changed")
    return TextEncoder(bundle)
