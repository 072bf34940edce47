"""Scores a request of the plainest form in one scoring thread: body, rows, run and reply, all but the run's call by the
native core, without Python's lock.

Whatever the core leaves to Python is for `scoring` to do the usual way. Does not know the queue, nor who asks.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import orjson
from numpy.typing import NDArray

import native
from msd.contract.assemble import Tensors
from msd.contract.correction import HEAD, Correction
from msd.contract.rows import RowCodec, RowSide
from msd.contract.schema import FeatureSchema
from native.layout import core_schema, new_tensors
from service.errors import ModelError
from service.rows.store import CoreFound, CoreRows
from service.runtimes.runner import SURE, Runner
from service.settings import Settings
from service.telemetry.metrics import Tier

_FILLED = 0
LiveOf = Callable[[FeatureSchema, str, Sequence[str]], "tuple[object, ...] | None"]
"""What is live of a user and of candidates, as the core takes it; None where that is not at hand."""


@dataclass(frozen=True)
class CoreStatus:
    """Whether the native core scores a model's plain requests."""

    served: bool
    instructions: str
    """The processor's instructions that the core uses; empty where it is not built."""
    reason: str
    """Why Python scores all requests; empty where the core is served."""


class Plain(NamedTuple):
    """A reply's body, where its rows came from, and how long its stages took (s)."""

    reply: bytes
    tier: Tier
    candidates: int
    found: CoreFound
    parse_s: float
    rows_s: float
    run_s: float
    reply_s: float


class Frame(NamedTuple):
    """One thread's own: buffers for one request of one model, in the core's hands and as tensors."""

    core: Any
    tensors: Tensors
    of_candidates: tuple[str, ...]

    def cut(self, count: int) -> Tensors:
        """The tensors of so many candidates."""
        return self.tensors | {name: self.tensors[name][:count] for name in self.of_candidates}


class NativePath:
    """One model's. Its methods are for scoring threads, as many at once as there are."""

    def __init__(
        self,
        schema: FeatureSchema,
        codecs: Mapping[RowSide, RowCodec],
        version: str,
        runner: Runner,
        rows: CoreRows,
        max_candidates: int,
    ) -> None:
        self._schema = schema
        self._core_schema = core_schema(schema, codecs)
        self._version = orjson.dumps(version)
        self._runner = runner
        self._rows = rows
        self._max_candidates = max_candidates
        self._local = threading.local()

    def user_of(self, body: bytes) -> str | None:
        """Whom a request is for; None where that is left to Python."""
        core = self._frame().core
        return str(core.user_id) if core.read(body, self._max_candidates) else None

    def score(
        self,
        body: bytes,
        request_id: str,
        arm: str | None,
        deadline: float,
        live: LiveOf | None = None,
        correction: Correction | None = None,
    ) -> Plain | None:
        """The reply to a request; None where that is left to Python: another form, rows or live states that are not at
        hand, or less time than all candidates take.

        Raises ModelError where a score is not finite, or what the model fails with.
        """
        frame, rows = self._frame(), self._rows
        core, epochs = frame.core, None if rows.epochs is None else rows.epochs()
        ask = live and partial(live, self._schema)
        if core.take(body, self._max_candidates, rows.users, rows.items, time.time(), epochs, ask) != _FILLED:
            return None
        count: int = core.count
        started = time.perf_counter()
        if self._runner.run_s.fitting(count, SURE * (deadline - started)) != count:
            return None
        scores = self._runner.runtime.run(frame.cut(count))
        if correction is not None:
            scores = {**scores, HEAD: correction(scores[HEAD])}
        ended = time.perf_counter()
        named = b"" if arm is None else b'"arm":%b,' % orjson.dumps(arm)
        opening = b'{"request_id":%b,"model_version":%b,%b"candidates":' % (
            orjson.dumps(request_id),
            self._version,
            named,
        )
        try:
            reply = core.reply(opening, _contiguous(scores))
        except ValueError as error:
            raise ModelError("the model returned a non-finite score for this request") from error
        if reply is None:
            return None
        parse_s, rows_s = core.seconds
        reply_s = time.perf_counter() - ended
        return Plain(reply, rows.tier, count, CoreFound(*core.found), parse_s, rows_s, ended - started, reply_s)

    def _frame(self) -> Frame:
        frame: Frame | None = getattr(self._local, "frame", None)
        if frame is None:
            assert native.core is not None, "it is opened where there is a core"
            tensors = new_tensors(self._schema, self._max_candidates)
            core = native.core.Frame(self._core_schema, tensors, self._max_candidates)
            of_candidates = tuple(spec.name for spec in self._schema.tensors if spec.side == "item")
            frame = self._local.frame = Frame(core, tensors, of_candidates)
        return frame


def core_status(settings: Settings, rows: CoreRows | None, runner: Runner) -> CoreStatus:
    """Return whether the core can score the plain requests of a model with these rows and this runner."""
    instructions = "" if native.core is None else str(native.core.INSTRUCTIONS)
    reason = _why_python(settings, rows, runner)
    return CoreStatus(not reason, instructions, reason)


def _why_python(settings: Settings, rows: CoreRows | None, runner: Runner) -> str:
    if not settings.native:
        return "switched off by MSD_NATIVE"
    if native.core is None:
        return native.REASON
    if rows is None:
        return "rows are not held in memory (MSD_CACHE_MB)"
    if runner.together is not None:
        return "several requests share a run of the model (MSD_MERGE)"
    return ""


def may_be_plain(body: bytes) -> bool:
    """Whether it is worth a try: a look costs less than to begin in vain."""
    return b'"items"' not in body and b'"explain"' not in body and b'"features"' not in body


def _contiguous(scores: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """A runtime may give a part of a larger array."""
    return {head: column if column.flags.c_contiguous else column.copy() for head, column in scores.items()}
