"""Models that a platform has without us: the ad's click rate, regression with all crosses, and trees on live counts.

Each is fitted on a world's training rows, and its settings chosen by logloss on the valid rows.
"""

from collections.abc import Callable
from functools import partial

import lightgbm
import numpy as np

from lab.worlds.bench import Bench, Rows
from lab.worlds.columns import live_columns, word_codes
from lab.worlds.law import Floats
from msd.dataset.split import Part
from msd.evaluation.regression import Outcomes, Regression, fields_of
from msd.metrics import sigmoid
from msd.ranker.features import Features

_ROUNDS, _PATIENCE = 2_000, 50
_TREES = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 50,
    "feature_fraction": 0.8,
    "seed": 0,
    "verbosity": -1,
}
_FEWEST_CLICKS = 20  # in valid, to choose by them

# Features and rows [n] → probabilities [n].
Predict = Callable[[Features, Rows], Floats]


def fit_click_rates(bench: Bench, outcomes: Outcomes) -> Predict:
    """Return the ad's own smoothed click rate."""
    schema = bench.features.schema
    place, state = schema.numeric_width("item"), schema.state("item")
    assert state is not None, "every fitted schema has the item's counts"
    prior = np.log(state.prior / (1 - state.prior))
    return lambda features, rows: sigmoid(prior + features.item.dense.numpy()[rows, place].astype(np.float64))


def fit_regression(bench: Bench, outcomes: Outcomes, is_crossed: bool = False) -> Predict:
    """Return the regression that `msd evaluate` has as a baseline, with the words of items as another field; on all
    crosses if it `is_crossed`."""
    fields = fields_of(bench.features)
    if bench.data.config.items.text:
        fields = fields._replace(right=[*fields.right, word_codes(bench.data, bench.features)])
    fitted = Regression.of(fields, outcomes, is_crossed)
    return lambda _, rows: fitted.predict(fields, rows)


def fit_trees(bench: Bench, outcomes: Outcomes) -> Predict:
    """Return LightGBM on live counts and fields."""
    trained, valid = outcomes.trained, outcomes.valid
    (x, categories), (held, _) = (live_columns(bench.features, rows) for rows in (trained, valid))
    weights = outcomes.weights
    log = lightgbm.Dataset(x, outcomes.labels[trained], weight=weights[trained], categorical_feature=categories)
    model = lightgbm.train(
        _TREES,
        log,
        _ROUNDS,
        [log.create_valid(held, outcomes.labels[valid], weight=weights[valid])],
        callbacks=[lightgbm.early_stopping(_PATIENCE, verbose=False)],
    )

    def predict(features: Features, rows: Rows) -> Floats:
        return np.asarray(model.predict(live_columns(features, rows)[0]), np.float64)

    return predict


FITS: dict[str, Callable[[Bench, Outcomes], Predict]] = {
    "click_rates": fit_click_rates,
    "lr": fit_regression,
    "lr_crosses": partial(fit_regression, is_crossed=True),
    "lightgbm": fit_trees,
}


def clicks_of(bench: Bench) -> Outcomes:
    """Return the clicks to fit on; rows weigh as their impressions."""
    features = bench.features
    labels, weights = features.outcomes(np.arange(len(features.labels)))
    trained, valid = np.flatnonzero(bench.parts <= Part.TRAIN), np.flatnonzero(bench.parts == Part.VALID)
    return Outcomes(trained, valid, labels, weights / weights[trained].mean())


def conversions_of(bench: Bench) -> Outcomes | None:
    """Return the conversions of clicks to fit on; None without conversions, or if valid has too few to choose by."""
    clicks, features = clicks_of(bench), bench.features
    if features.conversions is None:
        return None
    trained, valid = (rows[clicks.labels[rows] > 0] for rows in (clicks.trained, clicks.valid))
    converted = features.converted(np.arange(len(features.labels)))
    return Outcomes(trained, valid, converted, clicks.weights) if converted[valid].sum() >= _FEWEST_CLICKS else None
