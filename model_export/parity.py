"""Proof that the exported graph scores as the model does: from the bytes of requests to those of replies, through the
native core, as services score, against the model on the tensors that the core makes.

Requests are test rows as an ad server would send them: the row's time, context and history. Some have unknown users and
items, or missing parts, so that these cases are proved too.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import native
from model_export.errors import ExportError
from model_export.run import Run, open_run
from msd.contract.bundle import RANKER, Bundle
from msd.contract.encode import SECONDS_PER_DAY
from msd.contract.golden import Golden, GoldenEvent
from msd.contract.precision import Precision
from msd.contract.pricing import Formula
from msd.contract.request import ANONYMOUS_PREFIX
from msd.contract.schema import MAX_HISTORY, OUTCOME_FEATURES, FeatureSchema
from msd.contract.tensors import Tensors
from msd.dataset.load import Dataset
from msd.dataset.split import Part
from msd.ranker.features import Features
from native.bundle_rows import MAX_CANDIDATES, BundleRows
from native.layout import core_model
from native.offline import OfflineScorer

Request = dict[str, Any]
_OTHERS = 4
_VARIED, _KINDS = 6, 9
_UNPRICED, _SEEN, _EVENT_S = 5, 3, 5.0
_SHOWN_OFTEN = 12
_ODD_TIMES = (0.0, 1e11)


def serving_requests(dataset: Dataset, features: Features, limit: int, seed: int = 0) -> Iterator[Request]:
    """Yield up to `limit` requests as sent, evenly spread over the test rows: each row's item with four others.

    Every sixth varies: an unknown user, an unknown item, an item described by the request, missing context, null
    features, the stored history, histories with unknown IDs, with items shown often, without a click and at odd times.
    """
    rng = np.random.default_rng(seed)
    items = features.item.entities.ids
    for number, row in enumerate(spread(features.of_part(Part.TEST), limit)):
        others = [items[place] for place in rng.choice(len(items), min(_OTHERS, len(items)), replace=False)]
        request = plain_request(dataset, features, row)
        request["candidates"]["id"] += others
        if number % _VARIED == 0:
            _vary(request, features.schema, number // _VARIED)
        yield request


def plain_request(dataset: Dataset, features: Features, row: int) -> Request:
    """Return one row as a request for its own item alone."""
    event = dataset.events.row(row, named=True)
    return {
        "user_id": None if event["user_id"].startswith(ANONYMOUS_PREFIX) else event["user_id"],
        "at": float(event["at"]),
        "context": {name: event[name] for name in features.schema.settable["context"]},
        "candidates": {"id": [event["item_id"]]},
        "user": {"history": _history(features, row, float(event["at"]))},
    }


def _history(features: Features, row: int, at: float) -> list[Request]:
    """Return the row's history as sent: an entry an impression. Of an item shown more than `MOST_SHOWN` times, the
    clicks are rounded."""
    entries: list[Request] = []
    for item, outcomes in zip(features.history[row].tolist(), features.history_outcomes[row].tolist(), strict=True):
        seen = dict(zip(OUTCOME_FEATURES, outcomes, strict=True))
        then = max(at - seen["age_days"] * SECONDS_PER_DAY, 0.0)
        for place in range(round(seen["impressions"]) if item >= 0 else 0):
            clicked = place < round(seen["clicks"])
            entries.append({"item_id": features.item.entities.ids[item], "clicked": clicked, "at": then})
    return entries


def spread(rows: NDArray[np.int64], limit: int) -> list[int]:
    """Return up to `limit` of the rows, evenly spread."""
    places = np.linspace(0, len(rows) - 1, min(limit, len(rows))).astype(np.int64)
    chosen: list[int] = rows[places].tolist()
    return chosen


def _vary(request: Request, schema: FeatureSchema, kind: int) -> None:
    ids = request["candidates"]["id"]
    match kind % _KINDS:
        case 0:
            request["user_id"] = "a user that nobody knows"
        case 1:
            ids[-1] = "an item that nobody knows"
        case 2:
            ids[-1] = "an item that the request describes"
            described = {name: _sample(field) for name, field in schema.settable["item"].items()}
            # No text: its vector may be ready for this request or only for the next.
            request["items"] = {ids[-1]: {"features": described}}
        case 3:
            del request["context"]
        case 4:
            request["user"]["features"] = dict.fromkeys(schema.settable["user"])
            request["items"] = {ids[0]: {"features": dict.fromkeys(schema.settable["item"])}}
        case 5:
            del request["user"]
        case 6:
            request["user"]["history"] = ["an item that nobody knows", *request["user"]["history"], ids[0]]
        case 7:
            often = _SHOWN_OFTEN * request["user"]["history"]
            request["user"]["history"] = [*ids, *often[:MAX_HISTORY]]
        case 8:
            passed = [{"item_id": shown, "clicked": False, "at": time} for shown in ids for time in _ODD_TIMES]
            request["user"]["history"] = passed


def _sample(field: Any) -> Any:  # noqa: ANN401 - a value of the field's own type
    if field.kind == "numeric":
        return field.mean
    value = field.vocabulary[0] if field.vocabulary else "a value"
    return [value, "a value that nobody knows"] if field.kind == "bag" else value


class Parity(NamedTuple):
    """Requests with the model's scores as goldens, and the greatest differences from them: of the fp32 graph, and of
    each lower precision."""

    goldens: list[Golden]
    max_abs_diff: float
    lower_abs_diff: dict[Precision, float]

    @property
    def requests(self) -> list[Golden]:
        """Return those without live events, to which any service of the bundle replies with these scores."""
        return [golden for golden in self.goldens if not golden.events]

    def sample(self, count: int) -> list[Golden]:
        """Return up to `count` goldens: variations of each kind, others evenly spread, and a quarter after live
        events."""
        requests, live = self.requests, [golden for golden in self.goldens if golden.events]
        chosen = requests[: _KINDS * _VARIED : _VARIED]
        for some, most in ((requests, count - count // 4 - len(chosen)), (live, count // 4)):
            chosen += [some[place] for place in spread(np.arange(len(some)), most) if some[place] not in chosen]
        return chosen


class Expected(NamedTuple):
    """Expected scores [H, N] of a request's tensors, and the name of what computes them."""

    scores: Callable[[Tensors], NDArray[np.float32]]
    by: str


def check_parity(
    bundle: Bundle,
    expected: Expected,
    requests: Iterable[Request],
    tolerance: float,
    progress: Callable[[int], None],
    lower: Mapping[Precision, Run] | None = None,
) -> Parity:
    """Score every request with the model and with onnxruntime, from the bundle's own rows; some once more, after live
    events.

    `lower`: runs in lower precisions. Their differences are measured, not judged. Raises ExportError, with both scores,
    at the first difference above `tolerance`, or without the core.
    """
    if native.core is None:
        raise ExportError(f"the bundle is proved with the native core: {native.REASON}")
    heads = bundle.manifest.heads
    run = open_run(bundle.path(RANKER).read_bytes(), "fp32", heads)
    rows = BundleRows.of(bundle)
    served = ServedBundle(bundle, rows, run)
    goldens: list[Golden] = []
    worst, worst_lower = 0.0, dict.fromkeys(lower or {}, 0.0)
    for golden in _drafts(rows, requests, bundle.manifest.formula):
        tensors = rows.tensors(golden)
        due = expected.scores(tensors)
        found = served.scores(golden)
        difference = float(np.abs(found - due).max())
        if not difference <= tolerance:
            head, place = np.unravel_index(int(np.abs(found - due).argmax()), due.shape)
            raise ExportError(
                f"onnxruntime scores {found[head, place]:.7f} where {expected.by} scores {due[head, place]:.7f} "
                f"({heads[head]} of candidate {place} of request {len(goldens)}); the tolerance is {tolerance:.0e}; "
                "the bundle was not written"
            )
        worst = max(worst, difference)
        for precision, run_lower in (lower or {}).items():
            # Not max(): a NaN must count as a difference.
            found = np.abs(run_lower(tensors) - due)
            worst_lower[precision] = float(np.maximum(worst_lower[precision], found.max()))
        progress(len(goldens) + 1)
        scores = {head: [float(score) for score in row] for head, row in zip(heads, due, strict=True)}
        goldens.append(golden.model_copy(update={"expected": scores}))
    return Parity(goldens, worst, worst_lower)


def _drafts(rows: BundleRows, requests: Iterable[Request], formula: Formula) -> Iterator[Golden]:
    """Yield requests with their rows, still without scores, and with a bid on most candidates, of each pricing in turn;
    some once more with the stored history and live events."""
    for number, request in enumerate(requests):
        priced = _priced(request, number, formula)
        yield rows.golden(priced)
        if number == 0 or number % _VARIED == 1:
            without_history = {name: value for name, value in priced.items() if name != "user"}
            yield rows.golden(without_history).model_copy(update={"events": _events(priced)})


def _priced(request: Request, number: int, formula: Formula) -> Request:
    candidates = dict(request["candidates"])
    places = range(number, number + len(candidates["id"]))
    candidates["bid"] = [None if place % _UNPRICED == 0 else 0.25 * (1 + place % 7) for place in places]
    if number % 2:
        candidates["pricing"] = [list(formula)[place % len(formula)] for place in places]
    return {**request, "candidates": candidates}


def _events(request: Request) -> tuple[GoldenEvent, ...]:
    """Return impressions of the first candidates, and a click on the last of them, shortly before the request."""
    ids, at = list(dict.fromkeys(request["candidates"]["id"]))[:_SEEN], request["at"]
    shown = [GoldenEvent(item_id=one, at=at - _EVENT_S * (2 + place), is_click=False) for place, one in enumerate(ids)]
    return (*reversed(shown), GoldenEvent(item_id=ids[0], at=at - _EVENT_S, is_click=True))


class ServedBundle:
    """A bundle as services score with it: the native core, with the bundle's own rows and a run of its graph."""

    def __init__(self, bundle: Bundle, rows: BundleRows, run: Run) -> None:
        self._rows, self._heads, manifest = rows, bundle.manifest.heads, bundle.manifest

        def run_by_head(tensors: Tensors) -> Mapping[str, NDArray[np.float32]]:
            return dict(zip(self._heads, run(tensors), strict=True))

        served = core_model(manifest.model_version, manifest.formula, 0.0)
        own = rows.form, served, self._heads, None, run_by_head, MAX_CANDIDATES, rows.sources
        self._scorer = OfflineScorer(bundle.schema, *own)

    def scores(self, golden: Golden) -> NDArray[np.float32]:
        """Return the scores [H, N] in the reply to a golden's request after its live events. Raises ExportError if it
        is not scored."""
        try:
            reply = self._scorer.score(json.dumps(golden.request).encode(), live=self._rows.live(golden)).reply
        except ValueError as error:
            raise ExportError(f"a request is not scored: {error}; the bundle was not written") from error
        columns = json.loads(reply)["candidates"]
        return np.array([columns[head] for head in self._heads], np.float32)
