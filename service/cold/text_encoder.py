"""Text encoders of bundles: tokenizer, graph, and the proof that they reproduce the export's vectors; and a small cache
of loaded encoders.

The only file that needs `tokenizers` (extra `encode`). Loading and encoding happen in one low-priority thread. Knows no
requests.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from msd.contract.bundle import ENCODER, TOKENIZER, Bundle
from msd.contract.errors import BundleError, MsdError
from msd.contract.files import sha256_file
from service.lru_cache import LruCache
from service.machine import give_way
from service.runtimes.onnxruntime import open_session
from service.runtimes.runtime import RuntimeRefused

_INPUTS, _OUTPUT = {"input_ids", "attention_mask"}, "semantic"
_MOST = 3
_REFUSED_S = 10.0
Result = TypeVar("Result")


def can_tokenise() -> bool:
    """Return whether this installation can encode texts."""
    return find_spec("tokenizers") is not None


class TextEncoder:
    """Encodes texts as the bundle's export did, on one thread."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleError or RuntimeRefused if the bundle has no encoder, or one that does not reproduce its vectors
        here."""
        # Otherwise the tokenizer starts a thread per core.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise RuntimeRefused("texts need a tokenizer: pip install 'msd-ctr[encode]'") from None
        record = bundle.manifest.encoder
        if record is None or bundle.encoder_identity is None:
            raise BundleError(f"{bundle.folder}: has no encoder listed in its manifest; export it again")
        self.width = bundle.schema.semantic_width("item")
        self._path = bundle.path(ENCODER)
        try:
            self._tokenizer = Tokenizer.from_file(str(bundle.path(TOKENIZER)))
        except Exception as error:  # tokenizers raises nothing more special
            raise BundleError(f"{bundle.path(TOKENIZER)}: not a tokenizer: {error}") from None
        self._session = open_session(self._path, "cpu", 1)
        names = {tensor.name for tensor in self._session.inputs}
        if names != _INPUTS or _OUTPUT not in self._session.outputs:
            raise BundleError(f"{self._path}: not a text encoder: it needs {sorted(_INPUTS)} and gives {_OUTPUT!r}")
        for probe in record.probes:
            found = self.encode(self.tokenise([probe.text]))[0]
            difference = float(np.abs(found - np.array(probe.vector)).max())
            # Plus one step of fp16, to which vectors are rounded.
            allowed = record.tolerance + float(np.spacing(np.abs(found).max()))
            if not difference <= allowed:
                raise BundleError(
                    f"{self._path}: a vector differs by {difference:.3g} from what the manifest expects"
                    f" (at most {allowed:.3g})"
                )

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, truncated to the student's maximum."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def encode(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float16]:
        """Return the vectors [n, width] of n texts' token ids, as rows hold them; shorter ones are padded to the
        longest.

        Raises BundleError if the graph fails, or returns what no row may hold.
        """
        lengths = np.array([len(row) for row in rows])
        ids = np.zeros((len(rows), lengths.max()), np.int64)
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
        ids[mask == 1] = np.concatenate([np.asarray(row, np.int64) for row in rows])
        try:
            (vectors,) = self._session.run([_OUTPUT], {"input_ids": ids, "attention_mask": mask})
        except Exception as error:  # onnxruntime raises a type of its own for each status, with no common base
            raise BundleError(f"{self._path}: failed on a text: {error}") from None
        if vectors.shape != (len(rows), self.width):
            raise BundleError(f"{self._path}: gives vectors {vectors.shape[1:]}, the schema takes {self.width} numbers")
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            rounded: NDArray[np.float16] = vectors.astype(np.float16)
        if not np.isfinite(rounded).all():
            raise BundleError(f"{self._path}: gives numbers that are not finite")
        return rounded


class EncoderAway(MsdError):
    """The encoder of a bundle is unavailable; the log says why."""


class Encoders:
    """Loads encoders on demand; the least recently used are evicted."""

    def __init__(self) -> None:
        self._loaded: LruCache[str, TextEncoder] = LruCache(_MOST)
        self._refused: dict[tuple[Path, str], float] = {}
        self._loading = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder", initializer=give_way)
        self._log = structlog.get_logger("msd.encoder")

    async def get(self, bundle: Bundle) -> TextEncoder:
        """Return the encoder of a verified bundle. Raises EncoderAway, and then does not retry for a while."""
        # Otherwise concurrent requests would load an encoder twice.
        async with self._loading:
            return await self._get(bundle)

    async def in_thread(self, work: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.shutdown, True, cancel_futures=True)

    async def _get(self, bundle: Bundle) -> TextEncoder:
        folder, manifest_sha256, identity = bundle.folder, bundle.manifest.sha256, bundle.encoder_identity
        if identity is None:
            raise EncoderAway(f"{folder}: has no encoder")
        (loaded,) = self._loaded.get([identity])
        if loaded is not None:
            return loaded
        if time.monotonic() < self._refused.get((folder, manifest_sha256), 0.0):
            raise EncoderAway(f"{folder}: its encoder was refused")
        try:
            encoder = await self.in_thread(_load, bundle)
        except Exception as error:
            self._refused[folder, manifest_sha256] = time.monotonic() + _REFUSED_S
            trace = None if isinstance(error, MsdError) else error
            self._log.error(
                "encoder_refused", bundle=str(folder), reason=str(error), again_in=_REFUSED_S, exc_info=trace
            )
            raise EncoderAway(f"{folder}: {error}") from error
        self._loaded.put({identity: encoder})
        self._log.info("encoder_ready", bundle=str(folder))
        return encoder


def _load(bundle: Bundle) -> TextEncoder:
    for name in (ENCODER, TOKENIZER):
        # Files that are not held open may have changed since they were verified.
        if sha256_file(bundle.path(name)) != bundle.manifest.files[name].sha256:
            raise BundleError(f"{bundle.path(name)}: its SHA-256 is not the manifest's; it was changed")
    return TextEncoder(bundle)
