"""Explains the scores of a request: the shares of groups of knowledge, and the effect of each item of the history.

Scores the request again and again with parts of it missing, on spare capacity and within a budget of its own: scoring
goes first. What is left out is as it is for a user and an item of which nothing is known.
"""

import time
from collections.abc import Collection
from math import factorial
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from msd.contract.assemble import Tensors, assemble, wanted_items
from msd.contract.request import CheckedRequest, InvalidRequest
from msd.contract.rows import RowCodec
from msd.contract.schema import SIDES, Categorical, FeatureSchema, Side
from service.errors import DeadlineExceeded, ModelError, Overloaded
from service.scoring.answer import Scored, Terms
from service.scoring.model import Model
from service.scoring.pipeline import Score
from service.scoring.reply import Explanation, log_odds
from service.scoring.run_queue import RunQueue

Group = Literal["semantic", "id", "dense", "history"]
GROUPS: tuple[Group, ...] = get_args(Group)
_HISTORY = ("history_mask", "history_categorical", "history_semantic")
MAX_CLICKED = 50
# Explanations under way at once; and how much of the budget may be saved up.
_MOST, _SAVED_S = 4, 5.0
_HEAD = "pctr"


class _Part(NamedTuple):
    """Columns of a tensor's last axis, which are there only with all of these groups."""

    tensor: str
    columns: slice
    groups: frozenset[Group]


class KnownGroups:
    """The tensors of one request, taken apart into groups."""

    def __init__(self, schema: FeatureSchema, tensors: Tensors, nothing: Tensors) -> None:
        """`nothing` is what `unknown` gives."""
        self._tensors, self._nothing = tensors, nothing
        self._parts = [part for part in _parts(schema) if part.tensor in tensors]
        self._history = [name for name in _HISTORY if name in tensors]

    @property
    def groups(self) -> tuple[Group, ...]:
        """Those of which the request has anything."""
        there = {group for part in self._parts if self._says_something(part) for group in part.groups}
        return tuple(group for group in GROUPS if group in there)

    def of(self, groups: Collection[Group]) -> Tensors:
        """The tensors with these groups alone."""
        mixed = {name: tensor.copy() for name, tensor in self._tensors.items()}
        for part in self._parts:
            if not part.groups <= set(groups):
                mixed[part.tensor][..., part.columns] = self._nothing[part.tensor][..., part.columns]
        return mixed

    def without_clicked(self, place: int) -> Tensors:
        """The tensors without the item at this place of the history; those behind it move up."""
        mixed = dict(self._tensors)
        for name in self._history:
            whole = self._tensors[name]
            mixed[name] = np.concatenate([np.delete(whole, place, axis=1), np.zeros_like(whole[:, :1])], axis=1)
        return mixed

    def _says_something(self, part: _Part) -> bool:
        own, nothing = self._tensors[part.tensor], self._nothing[part.tensor]
        return not np.array_equal(own[..., part.columns], np.broadcast_to(nothing, own.shape)[..., part.columns])


def unknown(schema: FeatureSchema, user: RowCodec, item: RowCodec, at: float) -> Tensors:
    """Of an unknown user in an unknown context, and one unknown item."""
    request = CheckedRequest(user_id="", ids=[""])
    return assemble(schema, request, at, user.unpack([None]), item.unpack([None])).tensors


def _parts(schema: FeatureSchema) -> list[_Part]:
    parts = []
    for side in SIDES:
        parts += [_Part(f"{side}_categorical", columns, groups) for columns, groups in _categorical(schema, side)]
        width = schema.dense_width(side)
        # The last of the dense columns says whether there is a vector.
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
    ]
    return parts


def _categorical(schema: FeatureSchema, side: Side) -> list[tuple[slice, frozenset[Group]]]:
    return [
        (schema.columns[field.name], frozenset({"id" if isinstance(field, Categorical) and field.is_id else "dense"}))
        for field in schema.indexed(side)
    ]


class ExplainBudget:
    """Thread-seconds for explanations: `per_s` are added each second, those of five seconds are kept at most."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._left = _SAVED_S * per_s
        self._at = time.monotonic()
        self.under_way = 0

    def check(self) -> None:
        """Raise Overloaded if nothing is left, or InvalidRequest if there never is anything."""
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
        """Take the seconds of a run; the budget may fall below 0, and has to recover."""
        self._left -= seconds


class Explainer:
    """Has requests scored that ask for explanations, and explains them."""

    def __init__(self, queue: RunQueue, budget: ExplainBudget) -> None:
        self._queue = queue
        self._budget = budget

    async def explain(
        self, model: Model, request: CheckedRequest, terms: Terms, score: Score
    ) -> tuple[Scored, Explanation]:
        """Raise Overloaded before it is scored if there is no budget; DeadlineExceeded, ModelError, ClientGone, and
        what `score` raises."""
        try:
            self._budget.check()
        except Overloaded:
            self._queue.admission.shed("explain")
            raise
        self._budget.under_way += 1
        try:
            scored = await score()
            return scored, await self._explain(model, request, scored, terms)
        finally:
            self._budget.under_way -= 1

    async def _explain(self, model: Model, request: CheckedRequest, scored: Scored, terms: Terms) -> Explanation:
        if scored.basis.is_partial:
            raise DeadlineExceeded("deadline exceeded: too little time to score the request and explain it")
        started = time.perf_counter()
        basis, codecs = scored.basis, model.codecs
        tensors = assemble(model.schema, request, basis.at, basis.user, basis.items).tensors
        nothing = unknown(model.schema, codecs["user"], codecs["item"], basis.at)
        knowledge = KnownGroups(model.schema, tensors, nothing)
        score = log_odds(scored.scores[_HEAD])
        values = await self._values(model, knowledge, scored, terms)
        shares = dict(zip(knowledge.groups, shapley(values), strict=True))
        clicked = _clicked(model, request, scored)
        effects = np.zeros((len(score), min(len(clicked), MAX_CLICKED)))
        for column, place in enumerate(range(len(clicked))[-MAX_CLICKED:]):
            effects[:, column] = score - await self._run(model, knowledge.without_clicked(place), scored, terms)
        return Explanation(
            base=float(1 / (1 + np.exp(-values[0, 0]))),
            shares={group: shares.get(group, np.zeros(len(score))) for group in GROUPS},
            history=clicked[-MAX_CLICKED:],
            effects=effects,
            seconds=time.perf_counter() - started,
        )

    async def _values(self, model: Model, knowledge: KnownGroups, scored: Scored, terms: Terms) -> NDArray[np.float64]:
        """[2^n, N] log-odds with each choice of the n groups that there are; with all of them it is the score's own."""
        groups = knowledge.groups
        score = log_odds(scored.scores[_HEAD])
        values = np.empty((1 << len(groups), len(score)))
        values[-1] = score
        for chosen in range(len(values) - 1):
            kept = [group for bit, group in enumerate(groups) if chosen >> bit & 1]
            values[chosen] = await self._run(model, knowledge.of(kept), scored, terms)
        return values

    async def _run(self, model: Model, tensors: Tensors, scored: Scored, terms: Terms) -> NDArray[np.float64]:
        """[N] log-odds, corrected as the scores were."""
        rows, correction = len(scored.scores[_HEAD]), scored.correction
        ran = await self._queue.run(model.runner, tensors, rows, terms.deadline, terms.is_gone, is_spare=True)
        self._budget.spend(ran.run_s)
        pctr = ran.result[_HEAD]
        found = log_odds(pctr if correction is None else correction(pctr))
        if not np.isfinite(found).all():
            raise ModelError("the model returned a non-finite score with parts of the request left out")
        return found


def shapley(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Worths [2^n, N] of coalitions, whose members are the bits of the index → each player's share [n, N].

    The only way to share that is additive, symmetric and gives nothing to who changes nothing (L. Shapley, "A value for
    n-person games", 1953): what a player adds to those before him, on average over all orders in which they may come.
    A column of shares sums to the worth of all less the worth of none, to rounding.
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


def _clicked(model: Model, request: CheckedRequest, scored: Scored) -> list[str]:
    """The ids of the history as the model saw it: those that have rows, the last of them."""
    count = len(request.ids)
    ids = wanted_items(request, scored.basis.user)[count:]
    found = scored.basis.items.found[count:].tolist()
    return [one for one, is_found in zip(ids, found, strict=True) if is_found][-model.schema.history.length :]
