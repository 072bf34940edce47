"""Models and the counts baseline on the test rows, side by side: the same rows, the same labels."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msd.dataset.load import Dataset
from msd.dataset.split import Part
from msd.ranker.baseline import counts_baseline
from msd.ranker.features import build_features
from msd.ranker.folder import ModelError, load_ranker
from msd.ranker.metrics import Labels, Probabilities, calibration, measure
from msd.ranker.train import predict
from msd.student.vectors import StudentVectors


def evaluate_models(
    data: Dataset, vectors: StudentVectors, models: Mapping[str, Path], seed: int, progress: Callable[[str, int], None]
) -> dict[str, Any]:
    """By model, and for "counts", the baseline: metrics, calibration curve, training curve; and rows by part.

    `progress` hears what is being done, and how many are measured so far. Raises ModelError if a model was trained on
    something else, or if the test rows hold one label only.
    """
    results: dict[str, Any] = {"rows": {}, "models": {}}
    for name, folder in models.items():
        progress(f"Measuring {name}", len(results["models"]))
        trained, record = load_ranker(folder)
        if record.dataset != data.fingerprint or record.student != vectors.student:
            raise ModelError(f"{folder}: was trained on another dataset or student than {data.folder} and its student")
        features = build_features(data, trained.schema, vectors)
        test = features.of_part(Part.TEST)
        labels = features.labels.numpy()[test].astype(np.float64)
        if labels.min() == labels.max():
            raise ModelError(f"{data.folder}: all {len(test)} test rows have label {labels[0]:.0f}; nothing to rank")
        users = features.user.rows.numpy()[test].astype(np.int64)
        results["models"][name] = _figures(labels, predict(trained, features, test), users)
        results["models"][name]["curve"] = [point._asdict() for point in record.curve]
    progress("Growing the baseline's trees", len(models))
    results["models"]["counts"] = _figures(labels, counts_baseline(features, test, seed), users)
    progress("Measured", len(models) + 1)
    results["rows"] = {part.name.lower(): len(features.of_part(part)) for part in Part}
    return results


def _figures(labels: Labels, probabilities: Probabilities, users: NDArray[np.int64]) -> dict[str, Any]:
    return {
        "metrics": measure(labels, probabilities, users),
        "calibration": [one._asdict() for one in calibration(labels, probabilities)],
    }
