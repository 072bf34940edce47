"""Logistic regression on an item's text alone: the baseline for a ranker of new items."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from msd.dataset.split import Part
from msd.metrics import Probabilities, mean_logloss
from msd.ranker.features import Features

TFIDF, ENCODER = "tfidf", "encoder"
_PENALTIES = (1e-2, 1e-1, 1.0, 10.0)  # scikit-learn's C: smaller values shrink more


def text_baselines(
    features: Features, texts: Mapping[str, str], events: NDArray[np.int64]
) -> Iterator[tuple[str, Probabilities]]:
    """Yield click probabilities [len(events)] from TF-IDF of words and word pairs, and from the student's vectors if
    the features have any. Trained on window and train rows; the penalty is chosen by logloss on the valid rows."""
    ids, rows = features.item.entities.ids, features.item.rows.numpy()
    trained = features.of_part(Part.WINDOW, Part.TRAIN)
    words = [texts.get(one, "") for one in ids]
    vectoriser = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    vectoriser.fit([words[row] for row in np.unique(rows[trained])])
    yield TFIDF, _fitted(features, vectoriser.transform(words), events)
    if features.item.vectors.shape[1]:
        yield ENCODER, _fitted(features, features.item.vectors.numpy(), events)


def _fitted(features: Features, known: Any, events: NDArray[np.int64]) -> Probabilities:  # noqa: ANN401 - sparse or not
    rows = features.item.rows.numpy()
    trained, valid = features.of_part(Part.WINDOW, Part.TRAIN), features.of_part(Part.VALID)
    labels, impressions = features.outcomes(trained)
    tried = []
    for penalty in _PENALTIES:
        model = LogisticRegression(C=penalty, max_iter=300)
        model.fit(known[rows[trained]], labels, impressions / impressions.mean())
        found = model.predict_proba(known[rows[valid]])[:, 1]
        tried.append((mean_logloss(features.outcomes(valid)[0], found, features.outcomes(valid)[1]), penalty, model))
    best = min(tried, key=lambda one: one[:2])[2]
    probabilities: Probabilities = best.predict_proba(known[rows[events]])[:, 1]
    return probabilities
