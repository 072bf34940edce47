"""Linear models of items' content, one per user: strong baselines on unseen items.

Each user's weights are shrunk towards those of all users. An item is its features, and the teacher's words about it.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import TfidfVectorizer

from lab.benchmark.given import Floats, Given, Rows
from msd.contract.schema import Bag, Categorical, FeatureSchema, Side
from msd.dataset.split import Part
from msd.ranker.features import Features
from msd.ranker.timeline import Entities
from msd.teachers.knowledge import Knowledge
from msd.training.train_content import ROUNDS, learn_prior, posterior_means, sums_by_user

# Users of rows [n], inputs of their items [n, D], labels [n], number of users → weights [users, D].
Fit = Callable[[Rows, Floats, Floats, int], Floats]

# Chosen on valid items of MovieLens-100K, never on the hidden items of the same seed.
WORDS_DIM, RIDGE = 32, 150.0
SETTINGS = {"words_dim": WORDS_DIM, "rounds": ROUNDS, "ridge": RIDGE}
_LEAST = 1e-3


def attributes_linear(given: Given, events: Rows) -> Floats:
    """Return click probabilities [n] of events by the Bayesian model of the items' features alone."""
    return _predict(
        fit_bayesian, given.features, attributes(given.features.schema, given.features.item.entities), events
    )


def ridge_linear(given: Given, events: Rows) -> Floats:
    """Return click probabilities [n] by ridge regression on features and the teacher's words."""
    return _predict(fit_ridge, given.features, _all_known(given), events)


def bayesian_linear(given: Given, events: Rows) -> Floats:
    """Return click probabilities [n] by the Bayesian model of features and the teacher's words."""
    return _predict(fit_bayesian, given.features, _all_known(given), events)


def attributes(schema: FeatureSchema, entities: Entities) -> Floats:
    """Return inputs [n + 1, D]: a constant 1, then each one's numbers, their squares, and indicators."""
    numbers = entities.numeric.astype(np.float64)
    constant = np.ones((len(numbers), 1))
    return np.concatenate(
        [constant, numbers, numbers[:, ::2] ** 2, indicators(schema, entities.side, entities.categorical)], axis=1
    )


def indicators(schema: FeatureSchema, side: Side, categorical: NDArray[np.int32]) -> Floats:
    """Return indicators [n, D] of the values of a side's bags and categories, but not of IDs."""
    parts = [np.zeros((len(categorical), 0))]
    for field in schema.indexed(side):
        if isinstance(field, Bag) or (isinstance(field, Categorical) and not field.is_id):
            marks = np.zeros((len(categorical), field.size))
            np.put_along_axis(marks, categorical[:, schema.columns[field.name]], 1.0, axis=1)
            parts.append(marks[:, 1:])
    return np.concatenate(parts, axis=1)


def words(features: Features, known: dict[str, Knowledge], dim: int) -> Floats:
    """Return [n + 1, at most dim] principal components of TF-IDF of the teacher's words about each item; zeros if there
    are none.

    The standard deviation over all components together is 1, so the first ones weigh most.
    """
    ids = [id_ for id_ in features.item.entities.ids if id_ in known]
    entries = [known[id_] for id_ in ids]
    texts = [" ".join((entry.explicit, entry.implicit, ", ".join(entry.tags))) for entry in entries]
    counts = TfidfVectorizer(sublinear_tf=True, min_df=min(2, len(texts)), stop_words="english").fit_transform(texts)
    reduced = PCA(min(dim, *counts.shape), random_state=0).fit_transform(counts.toarray())
    result = np.zeros((len(features.item.entities.ids) + 1, reduced.shape[1]))
    result[[features.item.entities.place[id_] for id_ in ids]] = reduced / max(float(reduced.std()), 1e-12)
    return result


def fit_ridge(user: Rows, x: Floats, label: Floats, users: int) -> Floats:
    """Return weights [users, D]: ridge regression of all rows, plus one of its residuals in each user's own rows."""
    width = x.shape[1]
    gram, moment = sums_by_user(user, x, label, users)
    shared = np.linalg.solve(gram.sum(0) + RIDGE * np.eye(width), moment.sum(0))
    left = moment - gram @ shared
    own = np.linalg.solve(gram + RIDGE * np.eye(width), left[..., None])[..., 0]
    return np.asarray(shared + own, np.float64)


def fit_bayesian(user: Rows, x: Floats, label: Floats, users: int) -> Floats:
    """Return means [users, D] of weights with a normal prior over users, learned by EM."""
    return posterior_means(user, x, label, users, learn_prior(user, x, label))


def _all_known(given: Given) -> Floats:
    features = given.features
    known = words(features, dict(given.knowledge.items), WORDS_DIM)
    return np.concatenate([attributes(features.schema, features.item.entities), known], axis=1)


def _predict(fit: Fit, features: Features, known: Floats, events: Rows) -> Floats:
    """Return predictions: for test rows of a model that also learned from valid rows, for valid rows of one that did
    not."""
    user, item = (side.rows.numpy().astype(np.int64) for side in (features.user, features.item))
    label = features.labels.numpy().astype(np.float64)
    result = np.zeros(len(events))
    is_test = features.parts[events] == Part.TEST
    for asked, parts in ((~is_test, (Part.WINDOW, Part.TRAIN)), (is_test, (Part.WINDOW, Part.TRAIN, Part.VALID))):
        if asked.any():
            rows, due = features.of_part(*parts), events[asked]
            weights = fit(user[rows], known[item[rows]], label[rows], len(features.user.entities.ids) + 1)
            result[asked] = (weights[user[due]] * known[item[due]]).sum(1)
    return result.clip(_LEAST, 1 - _LEAST)
