"""Frames: the buffers of one thread and model, which the native core fills with a request's tensors. Rows, live states
and vectors of texts that are not in memory are fetched in the event loop, and handed in.

Does not know queues, runs or replies. Live rows and vectors of cold ads attach through the protocols below.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import structlog

from msd.contract.request import ANONYMOUS
from msd.contract.rows import ROW_SIDES, Rows, RowSide
from msd.contract.schema import FeatureSchema
from msd.contract.state import Impression
from msd.contract.tensors import Tensors
from native import core
from native.layout import AskedRequest, fetched_rows, new_tensors
from service.errors import StoreError
from service.scoring.model import Model
from service.telemetry.metrics import Metrics

_UNKNOWN = b'{"user_id":null,"candidates":{"id":["?"]}}'
# Seconds between two log lines about failed reads.
_SAY_AGAIN_S = 1.0
RowsOf = Callable[[RowSide, Sequence[str]], Awaitable[Rows]]


class Live(Protocol):
    """Live states, laid over rows."""

    def cached(self, schema: FeatureSchema, user_id: str | None, ids: Sequence[str]) -> "core.LiveStates | None":
        """Return the states of a user and of candidates, in the core's form; None if that would wait."""
        ...

    async def fetch(
        self, schema: FeatureSchema, request: AskedRequest, fetch: RowsOf, deadline: float | None = None
    ) -> "tuple[Rows, Rows, core.LiveStates | None]":
        """Return the row of the user, with the history to use, and those that the request wants, before a deadline;
        and the states to lay over them, in the core's form."""
        ...


class ColdAds(Protocol):
    """Vectors of texts of candidates without a row."""

    def reads(self, model: Model) -> bool:
        """Return whether texts are encoded for a model."""
        ...

    async def fill(self, model: Model, request: AskedRequest, items: Rows, deadline: float) -> Rows:
        """Return the rows that a request wants, adding vectors that can be made before a deadline."""
        ...


class Given(NamedTuple):
    """Rows that were fetched, of the user [1], and of candidates and history; live states to lay over them, in the
    core's form; the time of the request (Unix s); and the seconds that this took."""

    at: float
    user: Rows
    items: Rows
    states: "core.LiveStates | None"
    seconds: float


class Frame(NamedTuple):
    """One thread's buffers for one request of one model, as the core's frame and as tensors."""

    core: "core.Frame"
    tensors: Tensors

    def copied(self, names: Iterable[str] | None = None) -> Tensors:
        """Return copies of the request's tensors; by default of all."""
        rows = self.core.rows[: self.core.count]
        return {
            name: self.tensors[name][rows] if name.startswith("item_") else self.tensors[name].copy()
            for name in (self.tensors if names is None else names)
        }

    def kept(self, model: Model, given: Given | None) -> tuple[Rows, Rows]:
        """Return the rows that the tensors were made of, if they were kept. `given`: those that were fetched for it."""
        kept = self.core.kept
        history = tuple(Impression(*one) for one in kept.history)
        users, has_user = np.frombuffer(kept.user, model.codecs["user"].dtype), np.array([self.core.found.has_user])
        records = np.frombuffer(kept.items, model.codecs["item"].dtype)
        stale = (None, None) if given is None else (given.user.stale, given.items.stale)
        return (
            Rows(users, has_user, (history,), 0, stale[0]),
            Rows(records, np.frombuffer(kept.found, bool), (), 0, stale[1]),
        )

    def of_request(self, items: Rows) -> Rows:
        """Return the request's rows of `items`, which has one for equal candidates, and the history's behind them."""
        rows = self.core.rows
        return Rows(items.records[rows], items.found[rows], (), 0, None if items.stale is None else items.stale[rows])


class Frames:
    """Fills frames in any thread, and fetches rows in the event loop. Deadlines are of `time.perf_counter`."""

    def __init__(
        self, metrics: Metrics, max_candidates: int, live: Live | None = None, cold_ads: ColdAds | None = None
    ) -> None:
        """`max_candidates`: of one request."""
        self.max_candidates = max_candidates
        self.live = live
        self._metrics = metrics
        self._cold_ads = cold_ads
        self._log = structlog.get_logger("msd.scorer")
        self._unsaid = 0
        self._say_again_at = 0.0

    def of(self, model: Model) -> Frame:
        """Return the calling thread's frame."""
        frame: Frame | None = getattr(model.native.frames, "own", None)
        if frame is None:
            tensors = new_tensors(model.schema, self.max_candidates)
            own = core.Frame(model.native.schema, model.native.served, tensors, self.max_candidates)
            frame = model.native.frames.own = Frame(own, tensors)
        return frame

    def read(self, model: Model, body: bytes) -> AskedRequest | None:
        """Return as much of a request as says what has to be fetched for it; None if `msd.contract` refuses it."""
        own = self.of(model).core
        return AskedRequest.of(own.asked) if own.read(body, self.max_candidates) else None

    def fill(self, model: Model, body: bytes, given: Given) -> Frame:
        """Return the calling thread's frame, with the tensors of a request that `read` accepts, from given rows."""
        frame, rows = self.of(model), (fetched_rows(given.user), fetched_rows(given.items))
        states = None if given.states is None else lambda *_: given.states
        filled = frame.core.take(body, self.max_candidates, *rows, given.at, live=states)
        if filled != core.FillResult.FILLED:
            raise RuntimeError("the native core lacks rows that it was given")
        return frame

    def reads_texts(self, model: Model) -> bool:
        """Return whether the texts of ads without a row are encoded for a model."""
        return self._cold_ads is not None and self._cold_ads.reads(model)

    def unknown(self, model: Model, at: float) -> Tensors:
        """Return the tensors of an unknown user, an unknown context and one unknown item."""
        users, items = (model.codecs[side].unpack([None]) for side in ROW_SIDES)
        return self.fill(model, _UNKNOWN, Given(at, users, items, None, 0.0)).copied()

    async def fetch(self, model: Model, request: AskedRequest, deadline: float, at: float | None = None) -> Given:
        """Fetch what a request needs. A failing store degrades the rows. `at`: the time of a request that has none; by
        default the clock's."""
        started = time.perf_counter()
        if request.at is not None:
            at = request.at
        elif at is None:
            at = time.time()
        rows_of, states = partial(self._rows, model, deadline), None
        if self.live is not None:
            user, items, states = await self.live.fetch(model.schema, request, rows_of, deadline)
        else:
            user = await rows_of("user", [request.user_id])
            items = await rows_of("item", request.wanted(user))
        if request.texts and self._cold_ads is not None:
            items = await self._cold_ads.fill(model, request, items, deadline)
        return Given(at, user, items, states, time.perf_counter() - started)

    async def _rows(self, model: Model, deadline: float, side: RowSide, ids: Sequence[str]) -> Rows:
        """Return the store's rows, or the available ones if it fails; an anonymous user has no row."""
        if side == "user" and ids[0] == ANONYMOUS:
            return model.codecs[side].unpack([None])
        try:
            rows = await model.store.get(side, ids, deadline)
        except StoreError as error:
            self._note(error)
            if error.rows is not None:
                return error.rows
            return model.codecs[side].unpack([None] * len(ids))._replace(stale=np.zeros(len(ids), bool))
        self._metrics.damaged(side, rows.damaged)
        return rows

    def _note(self, error: StoreError) -> None:
        """Count a failed read. The log gets one line for many."""
        self._metrics.store_errors.inc()
        self._unsaid += 1
        now = time.perf_counter()
        if now >= self._say_again_at:
            self._log.warning("store_error", error=str(error), reads=self._unsaid)
            self._unsaid, self._say_again_at = 0, now + _SAY_AGAIN_S
