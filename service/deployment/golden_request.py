"""A golden as a request to the code that serves: its bytes go in, its rows and live events in the places of the stores,
and the reply's bytes come out.

Does not know which scores are right.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.contract.correction import Line
from msd.contract.errors import BundleError
from msd.contract.golden import Golden, golden_request, golden_rows
from msd.contract.pricing import ecpm_of
from msd.contract.request import ANONYMOUS
from msd.contract.row_writer import rows_in_memory
from msd.contract.rows import ROW_SIDES, Rows, RowSide
from msd.contract.segments import every_segment
from msd.contract.state import state_rules
from native.layout import core_rows
from native.offline import OfflineScorer
from service.live.live_state import NOTHING, pack_state, take, unpack_state
from service.live.store import LiveEvent, rows_of
from service.rows.arena import Arena
from service.runtimes.runtime import Scores
from service.scoring.model import Model

_LAG_S = 60.0
_ARENA_BYTES = 2**12
"""For each row: more than any has."""


class GoldenReply(NamedTuple):
    """The columns of a reply: IDs [N], scores [N] by head, and eCPM [N], NaN without a bid."""

    ids: list[str]
    scores: Scores
    ecpm: NDArray[np.float64]


class GoldenRequest:
    """One golden of a model's bundle. Raises BundleError if its request or a row is invalid."""

    def __init__(self, model: Model, golden: Golden, candidates: int = 0) -> None:
        """`candidates`: how many there will be at most, if more than the golden has."""
        self._document, self._heads = golden.request, model.bundle.manifest.heads
        request = golden_request(model.schema, golden)
        self.ids, self._bids, self._pricing = request.ids, request.bids, request.pricing
        self.schema, self.segments = model.schema, every_segment(request, model.schema)
        self.first_slot = request.slot or 1
        self._formula = model.bundle.manifest.formula
        user, ids, items = golden_rows(model.codecs["user"], model.codecs["item"], golden)
        self._live = _Live(model, golden, request.user_id, user, ids, items)
        new = (f"?{number}" for number in itertools.count())
        more = itertools.islice((one for one in new if one not in request.ids), max(0, candidates - len(request.ids)))
        self._more = list(more)
        history = [one.item_id for shown in (request.history or (), *user.histories) for one in shown]
        absent = dict.fromkeys([*request.ids, *self._more, *history, *(event.item_id for event in golden.events)])
        rows = (
            _stored(model, "user", [request.user_id], user, []),
            _stored(model, "item", ids, items, [one for one in absent if one not in golden.items]),
        )
        served, native = model.runtime, model.native
        self._scorer = OfflineScorer(
            model.schema,
            *(native.schema, native.served, self._heads, served.native),
            lambda tensors: served.run(tensors, is_aside=True),
            len(request.ids) + len(self._more),
            rows,
        )

    @property
    def has_bids(self) -> bool:
        return self._bids is not None

    def score(self, corrections: Sequence[Line] = (), is_padded: bool = False, **asked: int) -> GoldenReply:
        """Score it. `is_padded`: with unknown candidates behind its own; `asked`: other parts of the request. Returns
        the columns of the page if it asks for one, otherwise of the candidates. Raises BundleError if it is not scored.
        """
        document = {**self._document, "top_k": None, "explore": None, "explain": None, "page": None, **asked}
        if is_padded:
            columns = self._document["candidates"].items()
            document["candidates"] = {name: [*column, *self._filler(name)] for name, column in columns if column}
        live = self._live.states if self._live.events else None
        try:
            reply = self._scorer.score(json.dumps(document).encode(), live=live, corrections=corrections).reply
        except ValueError as error:
            raise BundleError(f"is not scored: {error}") from error
        found = json.loads(reply)["page" if "page" in asked else "candidates"]
        scores = {head: np.array(found[head], np.float32) for head in self._heads}
        return GoldenReply(found["id"], scores, np.array(found["ecpm"], np.float64))

    def ecpm(self, scores: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
        """Return the eCPM [N] of its bids at these scores, NaN without one."""
        return ecpm_of(self._bids, self._pricing, scores, self._formula)

    def _filler(self, column: str) -> Sequence[object]:
        if column == "id":
            return self._more
        return [self._pricing[0] if self._pricing and column == "pricing" else None] * len(self._more)


class _Live:
    """The live states of one golden, as stores of live states hold them after its events."""

    def __init__(self, model: Model, golden: Golden, user_id: str, user: Rows, ids: list[str], items: Rows) -> None:
        self.events = [
            LiveEvent(str(number), event.is_click, user_id, event.item_id, event.at)
            for number, event in enumerate(golden.events)
        ]
        self._rules = state_rules(model.schema)
        self._states: dict[RowSide, dict[str, bytes]] = {"user": {}, "item": {}}
        self._rows: dict[RowSide, dict[str, bytes]] = {}
        if self.events:
            self._rows = {"user": rows_of([user_id], user), "item": rows_of(ids, items)}
        for event in self.events:
            for side in ROW_SIDES:
                self._fold(side, event)

    def states(self, user_id: str | None, ids: Sequence[str]) -> tuple[object, ...]:
        """Return the states of the user and of candidates, in the core's form."""
        user = None if user_id is None else self._states["user"].get(user_id)
        stream = 0.0, max(event.at for event in self.events)
        half_lives = self._rules["user"].half_life_s, self._rules["item"].half_life_s
        return user, [self._states["item"].get(one) for one in ids], stream, _LAG_S, *half_lives, None

    def _fold(self, side: RowSide, event: LiveEvent) -> None:
        owner, of_side = event.of(side)
        if owner == ANONYMOUS:
            return
        held = self._states[side].get(owner) or self._rows[side].get(owner)
        state = take(self._rules[side], unpack_state(held) or NOTHING, of_side)
        self._states[side][owner] = pack_state(state)


def _stored(model: Model, side: RowSide, ids: Sequence[str], rows: Rows, absent: Sequence[str]) -> object:
    """Return rows as the model's store holds them for the core, and the absence of others."""
    codec, own = model.codecs[side], model.native.rows
    if own is not None and own.epochs is None:
        found = np.flatnonzero(rows.found)
        histories = [rows.histories[place] for place in found.tolist()] if rows.histories else []
        kept = [ids[place] for place in found.tolist()]
        return core_rows(rows_in_memory(codec, model.bundle.bundle_id, kept, rows.records[found], histories))
    arena = Arena(codec, (len(ids) + len(absent)) * (codec.dtype.itemsize + _ARENA_BYTES))
    arena.put(ids, rows, 0)
    arena.put(absent, codec.unpack([None] * len(absent)), 0)
    return arena.core()
