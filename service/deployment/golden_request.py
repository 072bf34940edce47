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
from msd.contract.rows import Rows, RowSide
from msd.contract.segments import every_segment
from native import core
from native.layout import core_rows
from native.live_state import GoldenLive
from native.offline import OfflineScorer
from service.rows.arena import Arena
from service.runtimes.runtime import Scores
from service.scoring.model import Model

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
        told = request.candidates
        self.ids, self._bids, self._pricing = told.id, told.bid, told.pricing
        self.schema, self.segments = model.schema, every_segment(request, model.schema)
        self.first_slot = request.first_slot or 1
        self._formula = model.bundle.manifest.formula
        user, ids, items = golden_rows(model.codecs["user"], model.codecs["item"], golden)
        own = request.user_id, user, ids, items
        self._live = GoldenLive(model.schema, golden.events, *own) if golden.events else None
        new = (f"?{number}" for number in itertools.count())
        more = itertools.islice((one for one in new if one not in self.ids), max(0, candidates - len(self.ids)))
        self._more = list(more)
        history = [*(request.user.shown if request.user else ()), *(one.item_id for one in user.histories[0])]
        absent = dict.fromkeys([*self.ids, *self._more, *history, *(event.item_id for event in golden.events)])
        rows = (
            _stored(model, "user", [request.user_id or ANONYMOUS], user, []),
            _stored(model, "item", ids, items, [one for one in absent if one not in golden.items]),
        )
        served, native = model.runtime, model.native
        self._scorer = OfflineScorer(
            model.schema,
            *(native.schema, native.served, self._heads, served.native),
            lambda tensors: served.run(tensors, is_aside=True),
            len(self.ids) + len(self._more),
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
        live = None if self._live is None else self._live.states
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


def _stored(
    model: Model, side: RowSide, ids: Sequence[str], rows: Rows, absent: Sequence[str]
) -> "core.RowFile | core.Arena":
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
