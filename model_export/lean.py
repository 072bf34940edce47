"""The lean graph of a bundle: proved against its own model, and measured against the full graph on valid rows."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_export.errors import ExportError
from model_export.fast_graph import fastest_graph
from model_export.graph import Run, median_microseconds, open_run
from model_export.parity import BundleRows
from model_export.precision.evidence import CONVERSIONS, Evidence
from model_export.recipe import LeanRecipe, Recipe
from msd.bootstrap import interval, resample_metrics
from msd.contract.bundle import LEAN_RANKER
from msd.contract.golden import Golden
from msd.contract.lean import LeanCost, LeanRecord, LeanTimes
from msd.metrics import Labels, measure_pooled

_TIMED_AT = (1, 50, 200)
_LEAST_USERS = 30


class LeanPart(NamedTuple):
    """A bundle's lean graph: its file, the goldens with its scores, and its parts of the manifest."""

    graph: bytes
    goldens: list[Golden]
    record: LeanRecord
    provenance: dict[str, Any]


def lean_part(
    made: Recipe,
    lean: LeanRecipe,
    full: Run,
    candidates: int,
    evidence: Evidence,
    rows: BundleRows,
    goldens: Sequence[Golden],
    tolerance: float,
    progress: Callable[[str, int], None],
) -> LeanPart:
    """Make the lean graph in fp32, factorised if that is faster; prove and measure it. `full` runs the served graph.

    Raises ExportError if it does not score as its model does, or cannot be judged.
    """
    progress("Factorising the lean graph", 0)
    fast = fastest_graph(lean.graph(), made.schema, candidates, evidence.request)
    run = open_run(fast.graph, "fp32", made.heads)
    proved, worst = prove_lean(
        run, lean, made.heads, rows, goldens, tolerance, lambda done: progress("Proving the lean graph", done)
    )
    record = measure_lean(
        full, run, made.heads, candidates, evidence, tolerance, lambda done: progress("Judging the lean graph", done)
    )
    provenance = {**lean.provenance, "max_abs_diff": worst, "graph": fast.as_json()}
    return LeanPart(fast.graph, proved, record, provenance)


def prove_lean(
    run: Run,
    recipe: LeanRecipe,
    heads: Sequence[str],
    rows: BundleRows,
    goldens: Sequence[Golden],
    tolerance: float,
    progress: Callable[[int], None],
) -> tuple[list[Golden], float]:
    """Return the goldens with the lean model's scores, and the graph's greatest difference from them.

    Raises ExportError at the first difference above the tolerance.
    """
    proved: list[Golden] = []
    worst = 0.0
    for golden in goldens:
        tensors = rows.tensors(golden)
        due, found = recipe.scores(tensors), run(tensors)
        difference = float(np.abs(found - due).max())
        if not difference <= tolerance:
            raise ExportError(
                f"{LEAN_RANKER}: a score of request {len(proved)} differs by {difference:.2e} from the lean model's,"
                f" more than {tolerance:.0e}; the bundle was not written"
            )
        worst = max(worst, difference)
        scores = {head: [float(score) for score in row] for head, row in zip(heads, due, strict=True)}
        proved.append(golden.model_copy(update={"lean": scores}))
        progress(len(proved))
    return proved, worst


def measure_lean(
    full: Run,
    lean: Run,
    heads: Sequence[str],
    candidates: int,
    evidence: Evidence,
    tolerance: float,
    progress: Callable[[int], None],
) -> LeanRecord:
    """Measure what the lean graph costs on valid rows, for each head that can be judged, and the time it saves.

    Raises ExportError if all valid rows have one label.
    """
    if len(np.unique(evidence.labels)) < 2:
        raise ExportError(
            "the valid rows have one label only: what the lean graph costs cannot be measured; remove the model's"
            " folder `lean` and export again"
        )
    scores = np.zeros((len(heads), 2, len(evidence.labels)))
    for number, tensors in enumerate(evidence.valid()):
        scores[:, 0, number], scores[:, 1, number] = full(tensors)[:, 0], lean(tensors)[:, 0]
        progress(number + 1)
    costs = {heads[0]: _cost(evidence.labels, scores[0], evidence.users)}
    if CONVERSIONS in heads and evidence.conversions is not None and evidence.unjudged(heads) is None:
        clicked = evidence.labels > 0
        own = scores[list(heads).index(CONVERSIONS)][:, clicked]
        costs[CONVERSIONS] = _cost(evidence.conversions[clicked], own, evidence.users[clicked])
    times = {
        count: median_microseconds({"full": full, "lean": lean}, evidence.request(count))
        for count in sorted({*_TIMED_AT, candidates})
    }
    return LeanRecord(
        tolerance=tolerance,
        costs=costs,
        microseconds={count: LeanTimes(**one) for count, one in times.items()},
    )


def _cost(labels: Labels, scores: NDArray[np.float64], users: NDArray[np.int64]) -> LeanCost:
    """Compare both graphs' scores [2, n] of one head, the full graph's first."""
    before, after = (measure_pooled(labels, score) for score in scores)
    drawn = resample_metrics(labels, scores, users)
    is_wide = len(np.unique(users)) >= _LEAST_USERS
    return LeanCost(
        valid_rows=len(labels),
        auc=after["auc"],
        auc_cost=before["auc"] - after["auc"],
        auc_cost_ci95=interval(drawn.auc[0] - drawn.auc[1]) if is_wide else None,
        logloss=after["logloss"],
        logloss_cost=after["logloss"] - before["logloss"],
        logloss_cost_ci95=interval(drawn.logloss[1] - drawn.logloss[0]) if is_wide else None,
        ece=after["ece"],
        ece_cost=after["ece"] - before["ece"],
    )
