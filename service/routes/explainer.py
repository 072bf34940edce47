"""Explains scores: the Shapley shares of groups of knowledge, and the effect of each item of the history.

The request is scored repeatedly with parts missing, one run at a time, at low priority and within a budget. A part that
is left out is treated as for an unknown user and item.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from math import factorial
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from msd.contract.request import InvalidRequest
from msd.contract.schema import SIDES, Categorical, FeatureSchema, Side
from msd.contract.tensors import Tensors
from service.errors import ClientGone, DeadlineExceeded, ModelError, Overloaded
from service.scoring.answer import Explained
from service.scoring.engine import ScoringEngine
from service.scoring.model import Model
from service.scoring.reply import Explanation, log_odds

Group = Literal["semantic", "id", "dense", "history"]
GROUPS: tuple[Group, ...] = get_args(Group)
_HISTORY = ("history_mask", "history_outcomes", "history_categorical", "history_semantic")
MAX_SHOWN = 50
# Concurrent explanations; and the seconds of budget that can be saved up.
_MOST, _SAVED_S = 4, 5.0
_HEAD = "pctr"


class _Part(NamedTuple):
    """Columns of a tensor's last axis that need all of these groups."""

    tensor: str
    columns: slice
    groups: frozenset[Group]


class KnownGroups:
    """The tensors of one request, separated into groups."""

    def __init__(self, schema: FeatureSchema, tensors: Tensors, nothing: Tensors) -> None:
        """`nothing`: the tensors of an unknown user, an unknown context and one unknown item."""
        self._tensors, self._nothing = tensors, nothing
        self._parts = [part for part in _parts(schema) if part.tensor in tensors]
        self._history = [name for name in _HISTORY if name in tensors]

    @property
    def groups(self) -> tuple[Group, ...]:
        there = {group for part in self._parts if self._says_something(part) for group in part.groups}
        return tuple(group for group in GROUPS if group in there)

    def of(self, groups: Collection[Group]) -> Tensors:
        mixed = {name: tensor.copy() for name, tensor in self._tensors.items()}
        for part in self._parts:
            if not part.groups <= set(groups):
                mixed[part.tensor][..., part.columns] = self._nothing[part.tensor][..., part.columns]
        return mixed

    def without_shown(self, place: int) -> Tensors:
        """Return the tensors without the history item at this position; later items move up."""
        mixed = dict(self._tensors)
        for name in self._history:
            whole = self._tensors[name]
            mixed[name] = np.concatenate([np.delete(whole, place, axis=1), np.zeros_like(whole[:, :1])], axis=1)
        return mixed

    def _says_something(self, part: _Part) -> bool:
        own, nothing = self._tensors[part.tensor], self._nothing[part.tensor]
        return not np.array_equal(own[..., part.columns], np.broadcast_to(nothing, own.shape)[..., part.columns])


def _parts(schema: FeatureSchema) -> list[_Part]:
    parts = []
    for side in SIDES:
        parts += [_Part(f"{side}_categorical", columns, groups) for columns, groups in _categorical(schema, side)]
        width = schema.dense_width(side)
        # The last dense column says whether there is a vector.
        dense = width - bool(schema.semantic(side))
        parts += [
            _Part(f"{side}_dense", slice(0, dense), frozenset({"dense"})),
            _Part(f"{side}_dense", slice(dense, width), frozenset({"semantic"})),
            _Part(f"{side}_semantic", slice(None), frozenset({"semantic"})),
        ]
    parts += [
        _Part("history_categorical", columns, groups | {"history"}) for columns, groups in _categorical(schema, "item")
    ]
    parts += [
        _Part("history_semantic", slice(None), frozenset({"semantic", "history"})),
        _Part("history_mask", slice(None), frozenset({"history"})),
        _Part("history_outcomes", slice(None), frozenset({"history"})),
    ]
    return parts


def _categorical(schema: FeatureSchema, side: Side) -> list[tuple[slice, frozenset[Group]]]:
    return [
        (schema.columns[field.name], frozenset({"id" if isinstance(field, Categorical) and field.is_id else "dense"}))
        for field in schema.indexed(side)
    ]


class ExplainBudget:
    """Token bucket of seconds for explanations: `per_s` per second, at most five seconds' worth saved."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._left = _SAVED_S * per_s
        self._at = time.monotonic()
        self.under_way = 0

    def check(self) -> None:
        """Raise Overloaded if the budget is used up, or InvalidRequest if it is always 0."""
        if not self._per_s:
            raise InvalidRequest("explanations are disabled on this service (MSD_EXPLAIN_SHARE=0)", "explain")
        now = time.monotonic()
        self._left = min(_SAVED_S * self._per_s, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self.under_way >= _MOST:
            raise Overloaded(f"{_MOST} explanations are in progress; retry later, or without `explain`")
        if self._left <= 0:
            raise Overloaded(
                f"explanations have no time left for {-self._left / self._per_s:.1f} s; retry then, or without"
                " `explain`"
            )

    def spend(self, seconds: float) -> None:
        """Spend the seconds of a run; the budget may become negative."""
        self._left -= seconds


class Explainer:
    def __init__(self, engine: ScoringEngine, budget: ExplainBudget) -> None:
        self._engine = engine
        self._budget = budget
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explain")

    async def explain(self, explained: Explained, deadline: float, is_gone: Callable[[], bool]) -> Explanation:
        """Explain scores by the deadline, of `time.perf_counter`. Raises Overloaded or InvalidRequest if there is no
        budget; DeadlineExceeded, ModelError, ClientGone."""
        try:
            self._budget.check()
        except Overloaded:
            self._engine.shed("explain")
            raise
        self._budget.under_way += 1
        try:
            async with asyncio.timeout(0.0 if explained.is_partial else deadline - time.perf_counter()):
                return await self._explained(explained, is_gone)
        except TimeoutError:
            self._engine.shed("deadline")
            raise DeadlineExceeded("deadline exceeded: too little time to score the request and explain it") from None
        finally:
            self._budget.under_way -= 1

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    async def _explained(self, explained: Explained, is_gone: Callable[[], bool]) -> Explanation:
        started = time.perf_counter()
        knowledge = KnownGroups(explained.model.schema, explained.tensors, explained.nothing)
        score, shown = log_odds(explained.pctr), explained.shown
        values = await self._values(knowledge, explained, is_gone)
        shares = dict(zip(knowledge.groups, shapley(values), strict=True))
        effects = np.zeros((len(score), min(len(shown), MAX_SHOWN)))
        for column, place in enumerate(range(len(shown))[-MAX_SHOWN:]):
            effects[:, column] = score - await self._run(knowledge.without_shown(place), explained, is_gone)
        return Explanation(
            base=float(1 / (1 + np.exp(-values[0, 0]))),
            shares={group: shares.get(group, np.zeros(len(score))) for group in GROUPS},
            history=shown[-MAX_SHOWN:],
            effects=effects,
            seconds=time.perf_counter() - started,
        )

    async def _values(
        self, knowledge: KnownGroups, explained: Explained, is_gone: Callable[[], bool]
    ) -> NDArray[np.float64]:
        """Return log-odds [2^n, N] for each subset of the n groups; the full set has the score's own."""
        groups = knowledge.groups
        score = log_odds(explained.pctr)
        values = np.empty((1 << len(groups), len(score)))
        values[-1] = score
        for chosen in range(len(values) - 1):
            kept = [group for bit, group in enumerate(groups) if chosen >> bit & 1]
            values[chosen] = await self._run(knowledge.of(kept), explained, is_gone)
        return values

    async def _run(self, tensors: Tensors, explained: Explained, is_gone: Callable[[], bool]) -> NDArray[np.float64]:
        if is_gone():
            raise ClientGone
        pctr, seconds = await asyncio.get_running_loop().run_in_executor(self._thread, _timed, explained.model, tensors)
        self._budget.spend(seconds)
        correction = explained.correction
        found = log_odds(pctr if correction is None else correction(pctr))
        if not np.isfinite(found).all():
            raise ModelError("the model returned a non-finite score with parts of the request left out")
        return found


def _timed(model: Model, tensors: Tensors) -> tuple[NDArray[np.float32], float]:
    """Return scores [N], and the seconds of their run."""
    started = time.perf_counter()
    return model.runtime.run(tensors, is_aside=True)[_HEAD], time.perf_counter() - started


def shapley(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each player's share [n, N] of coalition values [2^n, N], whose index bits are the members.

    The Shapley value is the only division that is efficient, symmetric, additive, and gives nothing to a player that
    changes nothing (L. Shapley, "A value for n-person games", 1953): a player's marginal contribution, averaged over
    all orders. A column of shares sums to the value of all less the value of none, to rounding.
    """
    players = len(values).bit_length() - 1
    shares = np.zeros((players, values.shape[1]))
    for player in range(players):
        for others in range(len(values)):
            if others >> player & 1:
                continue
            before = others.bit_count()
            weight = factorial(before) * factorial(players - before - 1) / factorial(players)
            shares[player] += weight * (values[others | 1 << player] - values[others])
    return shares
