"""Baselines without a network: trees on counts, and regressions on an item's text alone."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from msd.contract.schema import Bag, Categorical
from msd.dataset.split import Part
from msd.evaluation.verdict import ENCODER, TFIDF, TFIDF_WITHIN
from msd.metrics import Probabilities, mean_logloss, sigmoid
from msd.ranker.calibrate import choose_calibration
from msd.ranker.features import Features
from msd.training.content import fit_content

_PENALTIES = (1e-2, 1e-1, 1.0, 10.0)  # scikit-learn's C: smaller values shrink more


def counts_baseline(features: Features, events: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Return click probabilities [len(events)] of trees trained on window and train rows: dense features of both sides
    and the context (numbers, smoothed click rates, counts, ages), bags of both sides as indicators, categories as
    codes. No IDs, no vectors."""
    columns = _columns(features)
    trained = features.of_part(Part.WINDOW, Part.TRAIN)
    trees = HistGradientBoostingClassifier(learning_rate=0.05, max_iter=400, early_stopping=True, random_state=seed)
    labels, impressions = features.outcomes(trained)
    # Weights of 1 grow the same trees as no weights, but cost a pass over all rows per quantile, 254 of each column.
    trees.fit(columns[trained], labels, impressions if (impressions != 1).any() else None)
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


def text_baselines(
    features: Features, texts: Mapping[str, str], events: NDArray[np.int64], within: bool
) -> Iterator[tuple[str, Probabilities]]:
    """Yield click probabilities [len(events)] from TF-IDF of words and word pairs, and from the student's vectors if
    the features have any. Trained on window and train rows; the penalty is chosen by logloss on the valid rows.
    `within`: also regress clicks on TF-IDF within each user, as `fit_content` does on vectors."""
    ids, rows = features.item.entities.ids, features.item.rows.numpy()
    trained = features.of_part(Part.WINDOW, Part.TRAIN)
    if features.item.vectors.shape[1]:
        yield ENCODER, _fitted(features, features.item.vectors.numpy())[rows[events]]
    words = [texts.get(id_, "") for id_ in ids]
    vectoriser = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    try:
        vectoriser.fit([words[row] for row in np.unique(rows[trained])])
    except ValueError:  # no word occurs in two texts
        return
    weighted = vectoriser.transform([*words, ""])
    yield TFIDF, _fitted(features, weighted)[rows[events]]
    if within:
        weights, intercept = fit_content(features, weighted)
        logits, valid = weighted[rows] @ weights + intercept, features.of_part(Part.VALID)
        yield TFIDF_WITHIN, sigmoid(choose_calibration(logits[valid], *features.outcomes(valid))(logits[events]))


def _fitted(features: Features, known: Any) -> Probabilities:  # noqa: ANN401 - sparse or not
    """Return the click probability of each item from a regression on its row of `known`, fitted to items' counts."""
    rows, valid = features.item.rows.numpy(), features.of_part(Part.VALID)
    trained = features.of_part(Part.WINDOW, Part.TRAIN)
    labels, impressions = features.outcomes(trained)
    place = rows[trained] + known.shape[0] * (labels > 0)  # first the items' rows without a click, then those with one
    counts = np.bincount(place, impressions) / impressions.mean()
    shown = np.flatnonzero(counts)
    outcomes, weights = features.outcomes(valid)
    tried = []
    for penalty in _PENALTIES:
        model = LogisticRegression(C=penalty, max_iter=300)
        model.fit(known[shown % known.shape[0]], shown >= known.shape[0], counts[shown])
        found = model.predict_proba(known)[:, 1]
        tried.append((mean_logloss(outcomes, found[rows[valid]], weights), penalty, found))
    best: Probabilities = min(tried, key=lambda one: one[:2])[2]
    return best
