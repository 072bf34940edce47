"""Logistic regression on a few dozen columns: click rates and impressions of user and item, what they are, and what the
user's own impressions tell.

Strong where counts are live, and fitted in a second.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lab.benchmark.given import Floats, Given, Rows
from lab.benchmark.linear import attributes, indicators
from msd.contract.schema import Bag, Categorical, FeatureSchema, Semantic
from msd.dataset.split import Part
from msd.ranker.adaptor import Adaptors
from msd.ranker.batch import with_taste
from msd.ranker.features import Features
from msd.ranker.taste import Taste
from msd.training.train_taste import train_taste

_PENALTY = 0.1  # scikit-learn's C


def regression(given: Given, events: Rows) -> Floats:
    """Return click probabilities [n] of events from counts and attributes."""
    return _fitted(given.features, columns(given.features), events)


def regression_mood(given: Given, events: Rows) -> Floats:
    """Return the same from the user's mood too: the taste of a user for whom items differ in click rates alone."""
    fields = given.features.schema.fields
    alike = [field for field in fields if field.side != "item" or not isinstance(field, Categorical | Bag | Semantic)]
    known = np.concatenate([columns(given.features), _taste(given, FeatureSchema(fields=tuple(alike)))], 1)
    return _fitted(given.features, known, events)


def regression_taste(given: Given, events: Rows) -> Floats:
    """Return the same from the user's whole taste."""
    known = np.concatenate([columns(given.features), _taste(given, given.features.schema)], 1)
    return _fitted(given.features, known, events)


def columns(features: Features) -> Floats:
    """Return inputs [E, C]: of user and item the click rate, impressions, age of counts, product of the first two,
    numbers, their squares and indicators; numbers and indicators of the context."""
    context = features.context_categorical.numpy()
    parts = [features.context_dense.numpy(), indicators(features.schema, "context", context)]
    for side in (features.user, features.item):
        start = features.schema.numeric_width(side.entities.side)
        counts = side.dense.numpy()[:, start : start + 3]
        parts += [counts, counts[:, :1] * counts[:, 1:2], attributes(features.schema, side.entities)[side.rows.numpy()]]
    return np.concatenate(parts, 1).astype(np.float64)


def _taste(given: Given, schema: FeatureSchema) -> Floats:
    """Return the features [E, F] of a taste that compares items by the fields of a schema."""
    features = given.features
    adaptors = Adaptors(schema, features.item.vectors.shape[1])
    adaptors.start_at(features)
    features, taste = adaptors.adapt(features), Taste(schema)
    train_taste(taste, features, given.seed)
    parts = with_taste(taste, features, np.arange(len(features.labels))).taste
    assert parts is not None
    return parts.numpy().astype(np.float64)


def _fitted(features: Features, known: Floats, events: Rows) -> Floats:
    trained = features.of_part(Part.WINDOW, Part.TRAIN)
    labels, impressions = features.outcomes(trained)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=_PENALTY, max_iter=1_000))
    model.fit(known[trained], labels, logisticregression__sample_weight=impressions)
    probabilities: Floats = model.predict_proba(known[events])[:, 1]
    return probabilities
