"""Ads without a row whose text a request brings: a worker gets their vectors, from memory or the encoder's process.

A request waits for them a bounded time, and is scored without those that do not come by then. That the process is
away, frozen or behind costs it no more than that.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import structlog

from msd.contract.encoded import Vector, text_key
from msd.contract.request import CheckedRequest
from msd.contract.rows import Rows
from service.cold.messages import Question, Told, unpack_answer
from service.cold.vector_cache import VectorCache
from service.lineup.model import Model
from service.metrics import Metrics
from service.settings import Settings
from service.side_client import SideClient, SideError
from service.side_process import side_socket

_HELD = 20_000
# Of one request: all texts are read, hashed and sent between the requests of others.
_MOST_TEXTS = 256
# Of what is left until the deadline; the rest is for the queue and the run.
_SHARE = 0.5
# The process is to answer what it has before the worker gives up.
_EARLIER = 0.8
_SILENCE_S = 1.0
_LATER_S = 1.0
_MOST_LATER = 4


class ColdAds:
    """One worker's vectors of cold ads. A request waits for `wait_s` at most."""

    def __init__(self, side_folder: Path, metrics: Metrics, wait_s: float) -> None:
        self._client = SideClient("encoder", side_socket(side_folder, "encoder"))
        self._results = metrics.cold_texts
        self._wait_s = wait_s
        self._held = VectorCache(_HELD)
        self._silent_until = 0.0
        self._later: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("msd.cold")

    async def fill(self, model: Model, request: CheckedRequest, items: Rows, deadline: float) -> Rows:
        """The rows, with records of vectors where candidates have no row and their text was encoded.

        `items` are those of `wanted_items`, `deadline` is of `time.perf_counter`.
        """
        identity, texts = model.bundle.encoder_identity, request.item_texts
        if identity is None:
            return items
        keys = {
            place: text_key(identity, texts[item_id])
            for place, (item_id, is_found) in enumerate(zip(request.ids, items.found.tolist(), strict=False))
            if not is_found and item_id in texts
        }
        by_key = {key: texts[request.ids[place]] for place, key in keys.items()}
        vectors = await self._vectors(model, identity, by_key, deadline) if by_key else {}
        places = [place for place, key in keys.items() if key in vectors]
        if not places:
            return items
        records = items.records.copy()
        stacked = np.stack([vectors[keys[place]] for place in places])
        records[places] = model.codecs["item"].encoded(stacked, records[places])
        return items._replace(records=records)

    async def close(self) -> None:
        """Ends the connection."""
        await self._client.close()
        await asyncio.gather(*self._later, return_exceptions=True)

    async def _vectors(
        self, model: Model, identity: str, texts: Mapping[bytes, str], deadline: float
    ) -> dict[bytes, Vector]:
        vectors = {key: held for key in texts if (held := self._held.get(key)) is not None}
        self._count("held", len(vectors))
        missing = [key for key in texts if key not in vectors]
        asked = missing[:_MOST_TEXTS]
        self._count("dropped", len(missing) - len(asked))
        answers = await self._ask(model, identity, asked, texts, deadline)
        for key, told in zip(asked, answers, strict=False):
            self._count(told.outcome, 1)
            if told.vector is not None:
                self._held.put(key, told.vector)
                vectors[key] = told.vector
        return vectors

    async def _ask(
        self,
        model: Model,
        identity: str,
        keys: list[bytes],
        texts: Mapping[bytes, str],
        deadline: float,
    ) -> list[Told]:
        """What the process says of each; of a question that is not answered in time, that they are late."""
        if not keys:
            return []
        now = time.perf_counter()
        wait_s = min(self._wait_s, _SHARE * (deadline - now))
        bundle, width = model.bundle, model.schema.semantic_width("item")
        wanted = [texts[key] for key in keys]
        question = Question(str(bundle.folder), model.identity, bundle.bundle_id, identity, width, 0.0, wanted)
        if wait_s <= 0 or now < self._silent_until:
            # For the next time; nobody waits for what has just been silent.
            return [Told("late" if self._ask_later(keys, question) else "dropped")] * len(keys)
        try:
            return await self._answer(question, wait_s)
        except SideError as error:
            self._silent_until = time.perf_counter() + _SILENCE_S
            self._log.warning("encoder_silent", reason=str(error), texts=len(keys))
            return [Told("failed" if error.is_unsent else "late")] * len(keys)

    async def _answer(self, question: Question, wait_s: float) -> list[Told]:
        asked = question._replace(wait_s=_EARLIER * wait_s)
        return unpack_answer(await self._client.ask(asked.pack(), wait_s), len(asked.texts), asked.width)

    def _ask_later(self, keys: list[bytes], question: Question) -> bool:
        """Asks while nobody waits, so that the vectors are held when they are next wanted; not for too many at once."""
        if len(self._later) >= _MOST_LATER:
            return False

        async def ask() -> None:
            with suppress(SideError):
                for key, told in zip(keys, await self._answer(question, _LATER_S), strict=True):
                    if told.vector is not None:
                        self._held.put(key, told.vector)
                self._silent_until = 0.0

        task = asyncio.create_task(ask())
        self._later.add(task)
        task.add_done_callback(self._later.discard)
        return True

    def _count(self, result: str, texts: int) -> None:
        if texts:
            self._results[result].inc(texts)


def open_cold_ads(settings: Settings, side_folder: Path | None, metrics: Metrics) -> ColdAds | None:
    """None where there is no side process to ask."""
    if side_folder is None or settings.encoder == "off":
        return None
    return ColdAds(side_folder, metrics, settings.encoder_wait_ms / 1000)
