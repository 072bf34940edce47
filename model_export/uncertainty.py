"""Uncertainty of a bundle's scores, measured with its own graph on valid rows: with their ads as known, and as new."""

import numpy as np
from numpy.typing import NDArray

from model_export.errors import ExportError
from model_export.graph import Run
from model_export.precision.evidence import Evidence
from msd.contract.assemble import Tensors
from msd.contract.schema import STATE_FEATURES, Categorical, FeatureSchema
from msd.contract.uncertainty import Uncertainty, impressions_of
from msd.ranker.uncertainty import LEAST_ADS, AdRows, fit_uncertainty

_LEAST_SCORE = 1e-7


def measure_uncertainty(schema: FeatureSchema, evidence: Evidence, run: Run) -> Uncertainty:
    """Fit it on up to 10,000 valid rows. Raises ExportError for aggregated rows, too few items or one label."""
    if evidence.is_aggregated:
        raise ExportError(
            "--uncertainty needs one row an impression: in this dataset a row stands for several; export without it"
        )
    ads = evidence.items
    if len(np.unique(ads)) < LEAST_ADS:
        raise ExportError(
            f"--uncertainty: the valid rows have {len(np.unique(ads))} items, and {LEAST_ADS} are needed to tell how"
            " much they differ; bring more events, or export without it"
        )
    nothing = evidence.unknown()
    known, new, impressions = [], [], []
    for tensors in evidence.valid():
        known.append(float(run(tensors)[0, 0]))
        new.append(float(run(_as_new(schema, tensors, nothing))[0, 0]))
        impressions.append(float(impressions_of(schema, tensors)[0]))
    counted = np.array(impressions)
    return fit_uncertainty(
        AdRows(_logits(new), np.zeros_like(counted), evidence.labels, ads),
        AdRows(_logits(known), counted, evidence.labels, ads),
    )


def _as_new(schema: FeatureSchema, tensors: Tensors, nothing: Tensors) -> Tensors:
    """Return the tensors with the candidates' ID and counts replaced by those of an unknown one."""
    made = dict(tensors)
    if schema.state("item") is not None:
        start = schema.numeric_width("item")
        counts = slice(start, start + len(STATE_FEATURES))
        made["item_dense"] = tensors["item_dense"].copy()
        made["item_dense"][:, counts] = nothing["item_dense"][:, counts]
    if ids := [field for field in schema.indexed("item") if isinstance(field, Categorical) and field.is_id]:
        made["item_categorical"] = tensors["item_categorical"].copy()
        for field in ids:
            columns = schema.columns[field.name]
            made["item_categorical"][:, columns] = nothing["item_categorical"][:, columns]
    return made


def _logits(scores: list[float]) -> NDArray[np.float64]:
    within = np.clip(np.array(scores), _LEAST_SCORE, 1.0 - _LEAST_SCORE)
    logits: NDArray[np.float64] = np.log(within) - np.log1p(-within)
    return logits
