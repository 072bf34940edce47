"""Queue of texts to encode: bounded in number and rate, with texts of similar length in one run.

Each text is encoded once, however many requests ask for it. Everything but the work of `Encoders` runs on the event
loop. Knows no requests.
"""

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray

from msd.contract.bundle import Bundle
from msd.contract.errors import BundleError, MsdError
from service.cold.text_encoder import EncoderAway, Encoders, TextEncoder
from service.lru_cache import LruCache
from service.telemetry.metrics import Metrics

Vector = NDArray[np.float16]
Outcome = Literal["held", "encoded", "late", "dropped", "failed"]
_HELD = 100_000
_AT_ONCE = 64
# Per run: a text that arrives during a run waits until it ends. A text has some ten to a hundred tokens.
_TOKENS = 512
_TOGETHER_S = 0.2


def text_key(identity: str, text: str) -> bytes:
    """Return the 32-byte key of a text and an encoder."""
    return hashlib.sha256(f"{identity}\0{text}".encode()).digest()


class EncodedText(NamedTuple):
    """Outcome of one text, with its vector if there is one."""

    outcome: Outcome
    vector: Vector | None = None


class _Waiting(NamedTuple):
    text: str
    bundle: Bundle
    done: "asyncio.Future[EncodedText]"


class Encoding:
    """The text queue of a service. `run` encodes until it is cancelled."""

    def __init__(self, encoders: Encoders, metrics: Metrics, per_s: float, most_waiting: int) -> None:
        self._encoders = encoders
        self._metrics = metrics
        self._rate = Rate(per_s)
        self._most_waiting = most_waiting
        self._held: LruCache[bytes, Vector] = LruCache(_HELD)
        # All texts without a result, and those of them that no run has taken, in encoding order.
        self._waiting: dict[bytes, _Waiting] = {}
        self._due: dict[bytes, _Waiting] = {}
        self._has_more = asyncio.Event()
        self._log = structlog.get_logger("msd.encoder")

    async def ask(
        self, bundle: Bundle, texts: Mapping[bytes, str], wait_s: float, most: int
    ) -> dict[bytes, EncodedText]:
        """Return the outcome of each text of a bundle with an encoder, by key, within `wait_s`.

        Late texts are still encoded. Of the texts without a cached vector, only the first `most` are encoded.
        """
        held = zip(texts, self._held.get(list(texts)), strict=True)
        outcomes = {key: EncodedText("held", vector) for key, vector in held if vector is not None}
        ahead = len(self._due)
        missing = ((key, text) for key, text in texts.items() if key not in outcomes)
        waiting = self._take_in(bundle, dict(islice(missing, most)))
        if waiting:
            # With more than a second's worth of texts ahead, waiting is pointless.
            await asyncio.wait(waiting.values(), timeout=wait_s if ahead <= self._rate.per_s else 0.0)
            outcomes |= {key: done.result() if done.done() else EncodedText("late") for key, done in waiting.items()}
        return {key: outcomes.get(key, EncodedText("dropped")) for key in texts}

    async def run(self) -> None:
        """Encode waiting texts, oldest first."""
        while True:
            await self._has_more.wait()
            identity = next(iter(self._due.values())).bundle.encoder_identity
            alike = (item for item in self._due.items() if item[1].bundle.encoder_identity == identity)
            oldest = dict(islice(alike, _AT_ONCE))
            allowed = await self._rate.take(len(oldest))
            chosen = dict(islice(oldest.items(), allowed))
            for key in chosen:
                del self._due[key]
            await self._encode_some(chosen)
            if not self._due:
                self._has_more.clear()

    def _take_in(self, bundle: Bundle, texts: Mapping[bytes, str]) -> dict[bytes, "asyncio.Future[EncodedText]"]:
        """Queue texts without a cached vector, as far as there is room; return their futures by key."""
        taken: dict[bytes, asyncio.Future[EncodedText]] = {}
        for key, text in texts.items():
            if (known := self._waiting.get(key)) is not None:
                taken[key] = known.done
            elif len(self._waiting) < self._most_waiting:
                waiting = _Waiting(text, bundle, asyncio.get_running_loop().create_future())
                self._waiting[key] = self._due[key] = waiting
                taken[key] = waiting.done
                self._has_more.set()
        self._metrics.encoder_waiting.set(len(self._waiting))
        return taken

    async def _encode_some(self, chosen: Mapping[bytes, _Waiting]) -> None:
        texts = [waiting.text for waiting in chosen.values()]
        try:
            encoder = await self._encoders.get(next(iter(chosen.values())).bundle)
            for some in await self._encoders.in_thread(_alike, encoder, list(chosen), texts):
                await self._encode(encoder, some, chosen)
        except EncoderAway:
            self._fail(chosen)
        except Exception as error:
            self._log.error("encoding_failed", exc_info=error)
            self._fail(chosen)

    async def _encode(self, encoder: TextEncoder, some: "_Alike", chosen: Mapping[bytes, _Waiting]) -> None:
        """Encode texts in one run. If it fails, encode each alone, so that only the faulty one fails."""
        started = time.perf_counter()
        try:
            vectors = await self._encoders.in_thread(encoder.encode, some.rows)
        except MsdError as error:
            if len(some.keys) == 1:
                self._log.error("encoding_failed", reason=str(error))
                self._fail({some.keys[0]: chosen[some.keys[0]]})
                return
            for key, row in zip(some.keys, some.rows, strict=True):
                await self._encode(encoder, _Alike([key], [row]), chosen)
            return
        self._metrics.encoder_seconds.observe(time.perf_counter() - started)
        self._metrics.encoder_texts.inc(len(vectors))
        for key, vector in zip(some.keys, vectors, strict=True):
            self._finish(key, chosen[key], EncodedText("encoded", vector))

    def _fail(self, chosen: Mapping[bytes, _Waiting]) -> None:
        for key, waiting in chosen.items():
            if not waiting.done.done():
                self._finish(key, waiting, EncodedText("failed"))

    def _finish(self, key: bytes, waiting: _Waiting, encoded: EncodedText) -> None:
        if encoded.vector is not None:
            # A view would keep the whole batch in memory.
            self._held.put({key: encoded.vector.copy()})
        waiting.done.set_result(encoded)
        del self._waiting[key]
        self._metrics.encoder_waiting.set(len(self._waiting))


class _Alike(NamedTuple):
    """Texts of similar length, and their token ids."""

    keys: list[bytes]
    rows: list[list[int]]


def _alike(encoder: TextEncoder, keys: Sequence[bytes], texts: Sequence[str]) -> list[_Alike]:
    """Group all texts, shortest first, into runs of a bounded number of tokens, padding included."""
    rows = encoder.tokenise(texts)
    return [_Alike([keys[place] for place in run], [rows[place] for place in run]) for run in runs_of(rows, _TOKENS)]


def encode_texts(encoder: TextEncoder, texts: Sequence[str]) -> dict[str, Vector]:
    """Return the vectors of texts; those that the graph fails on are left out."""
    vectors: dict[str, Vector] = {}
    for some in _alike(encoder, [text.encode() for text in texts], texts):
        try:
            found = list(encoder.encode(some.rows))
        except BundleError:
            found = [_alone(encoder, row) for row in some.rows]
        vectors |= {key.decode(): vector for key, vector in zip(some.keys, found, strict=True) if vector is not None}
    return vectors


def _alone(encoder: TextEncoder, row: list[int]) -> Vector | None:
    try:
        vector: Vector = encoder.encode([row])[0]
    except BundleError:
        return None
    return vector


class Rate:
    def __init__(self, per_s: float) -> None:
        self.per_s = per_s
        self._most = max(1.0, per_s)
        self._left = self._most
        self._at = time.monotonic()

    async def take(self, wanted: int) -> int:
        """Wait until at least one of `wanted` texts is allowed, and return the allowed number.

        If none is allowed at once, wait for a fifth of a second's quota, or for `wanted`.
        """
        if self._refilled() < 1.0:
            some = max(1.0, min(wanted, self.per_s * _TOGETHER_S))
            while self._refilled() < some:
                await asyncio.sleep((some - self._left) / self.per_s)
        allowed = min(wanted, int(self._left))
        self._left -= allowed
        return allowed

    def _refilled(self) -> float:
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self.per_s)
        self._at = now
        return self._left


def runs_of(rows: Sequence[Sequence[int]], most_tokens: int) -> list[list[int]]:
    """Group row indices, shortest first, into runs of a bounded number of tokens, padding included; a longer row gets
    its own run."""
    runs: list[list[int]] = []
    for place in sorted(range(len(rows)), key=lambda place: len(rows[place])):
        if not runs or (len(runs[-1]) + 1) * len(rows[place]) > most_tokens:
            runs.append([])
        runs[-1].append(place)
    return runs
