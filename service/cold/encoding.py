"""Texts wait here for their vectors: a bounded number of them, encoded at a bounded rate, alike lengths together.

Each text is encoded once, whoever asks for it and however often. Knows neither sockets nor requests.
"""

import asyncio
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

import structlog

from msd.contract.encoded import Vector, text_key
from msd.contract.errors import MsdError
from service.cold.encoders import EncoderAway, Encoders
from service.cold.messages import Question, Told
from service.cold.rate import Rate
from service.cold.runs import runs_of
from service.cold.text_encoder import TextEncoder
from service.cold.vector_cache import VectorCache
from service.metrics import Metrics

_HELD = 100_000
_AT_ONCE = 64
# In one run: so long somebody waits who comes while it is made. A text has some ten to a hundred.
_TOKENS = 512


class Shelf(Protocol):
    """Where vectors are that other services made."""

    async def read(self, question: Question, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        """Those that are there, by key; none where the shelf cannot be reached."""
        ...

    async def write(self, bundle_id: str, vectors: dict[bytes, Vector]) -> None:
        """Puts vectors there, if it can."""
        ...


class _Waiting(NamedTuple):
    text: str
    question: Question
    done: "asyncio.Future[Vector]"


class Encoding:
    """The texts of one process. `run` encodes them until it is cancelled."""

    def __init__(
        self, encoders: Encoders, metrics: Metrics, per_s: float, most_waiting: int, shelf: Shelf | None = None
    ) -> None:
        self._encoders = encoders
        self._metrics = metrics
        self._rate = Rate(per_s)
        self._most_waiting = most_waiting
        self._shelf = shelf
        self._held = VectorCache(_HELD)
        self._waiting: dict[bytes, _Waiting] = {}
        self._has_more = asyncio.Event()
        self._log = structlog.get_logger("msd.encoder")

    async def ask(self, question: Question) -> list[Told]:
        """What came of each text of a question, within the time that it gives."""
        keys = [text_key(question.identity, text) for text in question.texts]
        told = {key: Told("shared", held) for key in keys if (held := self._held.get(key)) is not None}
        missing = {key: text for key, text in zip(keys, question.texts, strict=True) if key not in told}
        if missing and self._shelf is not None:
            for key, vector in (await self._shelf.read(question, list(missing))).items():
                self._held.put(key, vector)
                told[key] = Told("redis", vector)
                del missing[key]
        ahead = len(self._waiting)
        taken = {key: one for key, text in missing.items() if (one := self._take_in(key, text, question)) is not None}
        if taken:
            # Behind more than a second's worth of others there is nothing to wait for.
            wait_s = question.wait_s if ahead <= self._rate.per_s else 0.0
            await asyncio.wait([one.done for one in taken.values()], timeout=wait_s)
            told |= {key: _outcome(one.done) for key, one in taken.items()}
        return [told.get(key, Told("dropped")) for key in keys]

    async def run(self) -> None:
        """Encodes what waits, the oldest first."""
        while True:
            await self._has_more.wait()
            oldest = self._oldest()
            allowed = await self._rate.take(len(oldest))
            await self._encode_some(dict(list(oldest.items())[:allowed]))
            self._metrics.encoder_waiting.set(len(self._waiting))
            if not self._waiting:
                self._has_more.clear()

    def _take_in(self, key: bytes, text: str, question: Question) -> _Waiting | None:
        """None where there is no more room."""
        known = self._waiting.get(key)
        if known is not None or len(self._waiting) >= self._most_waiting:
            return known
        one = self._waiting[key] = _Waiting(text, question, asyncio.get_running_loop().create_future())
        self._metrics.encoder_waiting.set(len(self._waiting))
        self._has_more.set()
        return one

    def _oldest(self) -> dict[bytes, _Waiting]:
        """The oldest, and those behind it that want the same encoder."""
        identity = next(iter(self._waiting.values())).question.identity
        alike = ((key, one) for key, one in self._waiting.items() if one.question.identity == identity)
        return dict(islice(alike, _AT_ONCE))

    async def _encode_some(self, chosen: dict[bytes, _Waiting]) -> None:
        question = next(iter(chosen.values())).question
        texts = [one.text for one in chosen.values()]
        try:
            encoder = await self._encoders.get(Path(question.folder), question.manifest_sha256, question.identity)
            for some in await self._encoders.in_thread(_alike, encoder, list(chosen), texts):
                await self._encode(encoder, some, chosen)
        except EncoderAway as error:
            self._fail(chosen, error)
        except Exception as error:
            self._log.error("encoding_failed", exc_info=error)
            self._fail(chosen, error)
        finally:
            for key in chosen:
                self._waiting.pop(key, None)

    async def _encode(self, encoder: TextEncoder, some: "_Alike", chosen: dict[bytes, _Waiting]) -> None:
        """One run. If it fails, each text has one for itself, so that none fails by another's fault."""
        started = time.perf_counter()
        try:
            vectors = await self._encoders.in_thread(encoder.encode, some.rows)
        except MsdError as error:
            if len(some.keys) == 1:
                self._log.error("encoding_failed", reason=str(error))
                self._fail({some.keys[0]: chosen[some.keys[0]]}, error)
                return
            for key, row in zip(some.keys, some.rows, strict=True):
                await self._encode(encoder, _Alike([key], [row]), chosen)
            return
        self._metrics.encoder_seconds.observe(time.perf_counter() - started)
        self._metrics.encoder_texts.inc(len(vectors))
        made = dict(zip(some.keys, vectors, strict=True))
        for key, vector in made.items():
            self._held.put(key, vector)
            chosen[key].done.set_result(vector)
            self._waiting.pop(key, None)
        if self._shelf is not None:
            await self._shelf.write(chosen[some.keys[0]].question.bundle_id, made)

    def _fail(self, chosen: dict[bytes, _Waiting], error: Exception) -> None:
        for one in chosen.values():
            if not one.done.done():
                one.done.set_exception(error)
                one.done.exception()  # looked at, for there may be nobody who waits for it


class _Alike(NamedTuple):
    """Texts of about one length, and their token ids."""

    keys: list[bytes]
    rows: list[list[int]]


def _alike(encoder: TextEncoder, keys: Sequence[bytes], texts: Sequence[str]) -> list[_Alike]:
    """All texts, the shortest first, in runs of so many tokens, padding included."""
    rows = encoder.tokenise(texts)
    return [_Alike([keys[place] for place in run], [rows[place] for place in run]) for run in runs_of(rows, _TOKENS)]


def _outcome(done: "asyncio.Future[Vector]") -> Told:
    if not done.done():
        return Told("late")
    return Told("failed") if done.exception() else Told("encoded", done.result())
