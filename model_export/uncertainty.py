"""Uncertainty of a bundle's scores, measured with its own graph on valid rows: with their ads as known, and as new."""

import numpy as np

from model_export.errors import ExportError
from model_export.precision.evidence import Evidence
from model_export.run import Run
from msd.contract.schema import STATE_FEATURES, FeatureSchema
from msd.contract.tensors import Tensors
from msd.contract.uncertainty import Uncertainty, impressions_of
from msd.ranker.embedding import is_id
from msd.ranker.uncertainty import AdRows, fit_uncertainty

_LEAST_SCORE = 1e-7
_LEAST_ADS = 20


def measure_uncertainty(schema: FeatureSchema, evidence: Evidence, run: Run) -> Uncertainty:
    """Fit it on up to 10,000 valid rows. Raises ExportError for aggregated rows, too few items or one label."""
    if evidence.is_aggregated:
        raise ExportError(
            "--uncertainty needs one row an impression: in this dataset a row stands for several; export without it"
        )
    ads = evidence.items
    if len(np.unique(ads)) < _LEAST_ADS:
        raise ExportError(
            f"--uncertainty: the valid rows have {len(np.unique(ads))} items, and {_LEAST_ADS} are needed to tell how"
            " much they differ; bring more events, or export without it"
        )
    nothing = evidence.unknown()
    rows = [
        (run(_as_new(schema, tensors, nothing))[0, 0], run(tensors)[0, 0], impressions_of(schema, tensors)[0])
        for tensors in evidence.valid()
    ]
    new, known, impressions = np.array(rows, np.float64).T
    scores = np.clip([new, known], _LEAST_SCORE, 1.0 - _LEAST_SCORE)
    of_new, of_known = np.log(scores) - np.log1p(-scores)
    return fit_uncertainty(
        AdRows(of_new, np.zeros_like(impressions), evidence.labels, ads),
        AdRows(of_known, impressions, evidence.labels, ads),
    )


def _as_new(schema: FeatureSchema, tensors: Tensors, nothing: Tensors) -> Tensors:
    """Return the tensors with the candidates' ID and counts replaced by those of an unknown one."""
    start = schema.numeric_width("item")
    columns = {
        "item_dense": [slice(start, start + len(STATE_FEATURES))],
        "item_categorical": [schema.columns[field.name] for field in schema.indexed("item") if is_id(field)],
    }
    made = dict(tensors)
    for name, replaced in columns.items():
        made[name] = tensors[name].copy()
        for column in replaced:
            made[name][:, column] = nothing[name][:, column]
    return made
