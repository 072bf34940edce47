"""The baseline that is hard to beat: gradient-boosted trees on smoothed counts and the items' own attributes."""

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from msd.contract.schema import Bag, Categorical
from msd.dataset.split import Part
from msd.ranker.features import Features


def counts_baseline(features: Features, events: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Click probabilities [len(events)] of trees trained on window and train rows: dense features of both sides
    (numbers, smoothed click rates, counts, ages), bags as indicators, categories as codes. No ids, no vectors."""
    columns = _columns(features)
    trained = features.of_part(Part.WINDOW, Part.TRAIN)
    trees = HistGradientBoostingClassifier(learning_rate=0.05, max_iter=400, early_stopping=True, random_state=seed)
    trees.fit(columns[trained], features.labels.numpy()[trained])
    probabilities: NDArray[np.float64] = trees.predict_proba(columns[events])[:, 1]
    return probabilities


def _columns(features: Features) -> NDArray[np.float32]:
    parts = [features.context_dense.numpy(), features.context_categorical.numpy().astype(np.float32)]
    for side in (features.user, features.item):
        # The last dense column, if the schema has vectors, says whether there is one.
        vectors = features.schema.semantic(side.entities.side) is not None
        parts.append(side.dense.numpy()[:, : side.dense.shape[1] - vectors])
        rows = side.rows.numpy()
        for field in features.schema.indexed(side.entities.side):
            values = side.entities.categorical[:, features.schema.columns[field.name]]
            if isinstance(field, Categorical) and not field.is_id:
                parts.append(values[rows].astype(np.float32))
            elif isinstance(field, Bag):
                indicators = np.zeros((len(values), field.size), np.float32)
                np.put_along_axis(indicators, values, 1.0, axis=1)
                parts.append(indicators[:, 1:][rows])
    return np.concatenate(parts, axis=1)
