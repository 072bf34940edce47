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

from msd.contract.bundle import ENCODER, TOKENIZER, open_verified
from msd.contract.errors import BundleError, MsdError
from msd.contract.files import sha256_file
from service.cold.text_encoder import TextEncoder

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
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._log = structlog.get_logger("msd.encoder")

    async def get(self, folder: Path, manifest_sha256: str, identity: str) -> TextEncoder:
        """The encoder of that identity, which is in the bundle in `folder`, verified under its manifest's hash.

        Raises EncoderAway; then it is not tried again for a while.
        """
        if identity in self._loaded:
            self._loaded.move_to_end(identity)
            return self._loaded[identity]
        if time.monotonic() < self._refused.get((folder, manifest_sha256), 0.0):
            raise EncoderAway(f"{folder}: its encoder was refused")
        try:
            encoder = await self.in_thread(_load, folder, manifest_sha256, identity)
        except Exception as error:
            self._refused[folder, manifest_sha256] = time.monotonic() + _REFUSED_S
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


def _load(folder: Path, manifest_sha256: str, identity: str) -> TextEncoder:
    bundle = open_verified(folder, manifest_sha256)
    if bundle.encoder_identity != identity:
        raise BundleError(f"{folder}: has another encoder than the one that is asked for")
    for name in (ENCODER, TOKENIZER):
        # Where files are not held open for it, they may have changed since they were verified.
        if sha256_file(bundle.path(name)) != bundle.manifest.files[name].sha256:
            raise BundleError(f"{bundle.path(name)}: its SHA-256 is not the manifest's; it was changed")
    return TextEncoder(bundle)
