"""A bundle that scores logged requests again as services do, by the native core: its own graph in ONNX Runtime, from
its own rows. Needs no training data, and no other bundle's schema."""

import json
import time
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

import native
from msd.contract.bundle import RANKER, open_bundle
from msd.contract.correction import HEAD, LearnedCorrection, Scores
from msd.contract.request import MAX_CANDIDATES, load_json
from msd.contract.row_file import RowFile
from msd.contract.rows import ROW_SIDES, Records, Rows, row_dtype
from msd.contract.state import Impression
from msd.contract.tensors import Tensors
from msd.feedback.files import FeedbackError
from native.layout import core_model, core_schema
from native.offline import OfflineScorer

_SAMPLE = 1_000
_COUNTS = ("impressions", "clicks", "as_of")
_NOTHING = (0.0, 0.0, -np.inf)


class LoggedState(NamedTuple):
    """What a request was scored from, live state included: impressions, clicks and their time (Unix s), of the user,
    by candidate, and by item of the history, whose counts are not live; and the user's history."""

    user: tuple[float, ...]
    history: tuple[Impression, ...]
    candidates: Mapping[str, tuple[float, ...]]
    shown: Mapping[str, tuple[float, ...]]


class ScoredRequest(NamedTuple):
    """Scores [N] by head as served, and as shown at positions of the page; None: at an unknown one."""

    served: Scores
    shown: Mapping[int | None, Scores]


class ScoredBundle:
    """An open bundle. `refused` counts requests that its schema does not accept; `seconds` are those of each scored
    request, from its parsed body to its reply."""

    def __init__(
        self,
        folder: Path,
        corrections: Mapping[str, LearnedCorrection] | None = None,
        refreshed: Collection[str] = (),
    ) -> None:
        """Open and verify the bundle. `corrections`: what services correct scores by. `refreshed`: IDs of bundles with
        rows of the same form, whose logged states count, too. Raises BundleError; FeedbackError without the core."""
        if native.core is None:
            raise FeedbackError(f"bundles are judged with the native core: {native.REASON}")
        self.bundle = open_bundle(folder)
        self.refused = 0
        self.seconds: list[float] = []
        self._forms = {self.bundle.bundle_id, *refreshed}
        learned = (corrections or {}).get(self.bundle.bundle_id)
        self._lines = [] if learned is None else learned.lines_for(self.bundle.schema)
        self._users, self._items = (RowFile.of(self.bundle, side) for side in ROW_SIDES)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = str(self.bundle.path(RANKER))
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        heads = list(self.bundle.manifest.heads)

        def run(tensors: Tensors) -> Scores:
            return dict(zip(heads, session.run(heads, tensors), strict=True))

        self._run_model = run
        self._scorer = self._scorer_of(self.bundle.schema.serving_constants)

    def _scorer_of(self, constants: Mapping[str, str | float]) -> OfflineScorer:
        """Return a scorer of requests whose context has these constants."""
        manifest, schema = self.bundle.manifest, self.bundle.schema
        form = core_schema(schema, {file.codec.side: file.codec for file in (self._users, self._items)}, constants)
        # Requests that explored are judged as any other.
        served = core_model(manifest.model_version, manifest.formula, explore_share=1.0)
        heads = list(manifest.heads)
        return OfflineScorer(schema, form, served, heads, None, self._run_model, MAX_CANDIDATES)

    @property
    def data_until(self) -> float:
        """When the counts in its items' rows end (Unix s): about the latest event that it was trained on."""
        ids = [one for one, _ in self._items.scan(0, _SAMPLE)]
        return float(self._items.get(ids).records["as_of"].max(initial=0.0))

    def state_of(self, row: Mapping[str, Any]) -> LoggedState | None:
        """Return the state of a request that this bundle or a refresh of it scored; None for another's, or if the log
        lacks it. Raises FeedbackError for rows of another form."""
        if row["bundle_id"] not in self._forms or None in (row["user_row"], row["item_rows"], row["impressions"]):
            return None
        numbers = zip(row["history"], *(row["impressions"][place::3] for place in range(3)), strict=True)
        history = tuple(Impression(at, item_id, shown, clicked) for item_id, at, shown, clicked in numbers)
        ids, shown = row["item_ids"], row["history"]
        rows = []
        for name, side, count in zip(("user_row", "item_rows"), ROW_SIDES, (1, len(ids) + len(shown)), strict=True):
            dtype = row_dtype(self.bundle.schema, side)
            if len(row[name]) != count * dtype.itemsize:
                raise FeedbackError(f"request {row['request_id']}: {name} does not hold {count} rows of its bundle")
            rows.append(np.frombuffer(row[name], dtype)[list(_COUNTS)].tolist())
        (user,), items = rows
        return LoggedState(
            user, history, dict(zip(ids, items, strict=False)), dict(zip(shown, items[len(ids) :], strict=True))
        )

    def score(self, row: Mapping[str, Any], state: LoggedState | None = None) -> Scores | None:
        """Return the scores [N] by head of a logged request's candidates, as they would be served; None if the bundle
        does not accept it: its schema, or its prices. Counts and history are the row's or those of `state`, whichever
        is newer. Raises FeedbackError if `item_ids` are not its candidates."""
        found = self.score_shown(row, state, ())
        return None if found is None else found.served

    def score_shown(
        self, row: Mapping[str, Any], state: LoggedState | None, positions: Collection[int | None]
    ) -> ScoredRequest | None:
        """As `score`, and as shown at the given positions of the page; None: an unknown one, a missing value."""
        schema = self.bundle.schema
        asked = self._scorer.asked(row["request"])
        if asked is None:
            self.refused += 1
            return None
        if asked.ids != list(dict.fromkeys(row["item_ids"])):
            raise FeedbackError(f"request {row['request_id']}: item_ids are not its candidates")
        start = time.perf_counter()
        user = self._users.get([asked.user_id])
        if state is not None:
            if state.user[-1] > user.records["as_of"][0]:
                user = user._replace(histories=(state.history,))
            _renew(user.records, [state.user])
        wanted = asked.wanted(user)
        items = self._items.get(wanted)
        if state is not None and wanted:
            count = len(asked.ids)
            logged = [state.candidates.get(item_id, _NOTHING) for item_id in wanted[:count]]
            logged += [state.shown.get(item_id, _NOTHING) for item_id in wanted[count:]]
            _renew(items.records, logged)
        given = row["at"], user, items
        try:
            served = self._run(self._scorer, row["request"], row["request_id"], given)
            self.seconds.append(time.perf_counter() - start)
            if len(served[HEAD]) != len(row["item_ids"]):
                raise FeedbackError(f"request {row['request_id']}: item_ids are not its candidates")
            if schema.position is None:
                return ScoredRequest(served, dict.fromkeys(positions, served))
            document, shown = load_json(row["request"]), {}
            assert isinstance(document, dict), "it was parsed as a request"
            for position in positions:
                scorer = self._without_position if position is None else self._scorer
                body = json.dumps({**document, "slot": position}).encode()
                shown[position] = self._run(scorer, body, row["request_id"], given)
        except ValueError:
            self.refused += 1
            return None
        return ScoredRequest(served, shown)

    def _run(self, scorer: OfflineScorer, body: bytes, request_id: str, given: tuple[float, Rows, Rows]) -> Scores:
        return scorer.score(body, request_id, given=given, corrections=self._lines).scores

    @cached_property
    def _without_position(self) -> OfflineScorer:
        """A scorer of requests whose position is missing, which none can ask for."""
        constants = self.bundle.schema.serving_constants
        return self._scorer_of({name: one for name, one in constants.items() if name != self.bundle.schema.position})


def _renew(records: Records, logged: Sequence[tuple[float, ...]]) -> None:
    """Replace the counts of records [n] by logged ones that are newer."""
    counts = np.array(logged)
    is_newer = counts[:, -1] > records["as_of"]
    for name, column in zip(_COUNTS, counts.T, strict=True):
        records[name][is_newer] = column[is_newer]
