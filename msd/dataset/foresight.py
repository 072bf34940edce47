"""Detection of label leakage and sampled negatives, which inflate offline figures.

Notes, not problems: only the log's owner can tell.
"""

import numpy as np
import polars as pl

from msd.dataset.aggregate import impressions_of, is_counted
from msd.dataset.config import FeatureConfig
from msd.dataset.guess import is_afterwards
from msd.dataset.load import Dataset

_TOO_GOOD = 0.95
_BINS = 32
_FEWEST_GROUPS = 20
_NEARLY_ALL = 0.95


def foresight(dataset: Dataset) -> list[str]:
    """Return notes on features that may contain the outcome, and on negatives that seem sampled."""
    return [*_features(dataset), *_sampled(dataset.events)]


def _features(dataset: Dataset) -> list[str]:
    found = []
    for feature in dataset.config.features:
        if feature.serving_value is not None:
            continue
        where = f"the {feature.side} feature {feature.name} (column {feature.source})"
        auc = 0.0 if feature.kind == "bag" else _auc_alone(dataset, feature)
        if auc >= _TOO_GOOD:
            found.append(
                f"{where} alone tells clicks from the rest (AUC {auc:.3f}): if it is known only after the impression, "
                "no request can bring it; take it out of [[features]]"
            )
        elif is_afterwards(feature.source):
            found.append(
                f"{where} is called like something that comes of impressions: if it counts what happened later than a "
                "row's own time, figures are too good and no request can bring it; take it out of [[features]]"
            )
    return found


def _auc_alone(dataset: Dataset, feature: FeatureConfig) -> float:
    """Return the AUC, on half of the impressions, of a value's click rate in the other half; numbers are cut into 32
    bins."""
    key = {"user": "user_id", "item": "item_id"}.get(feature.side)
    events = dataset.events.select("label", impressions_of(dataset.events), *([key] if key else [feature.name]))
    if key:
        table = dataset.users if feature.side == "user" else dataset.items
        events = events.join(table.select(key, feature.name), on=key, how="left")
    value = pl.col(feature.name)
    if feature.kind == "numeric":
        value = (value.rank("min") * _BINS / (value.count() + 1)).floor()
    # Random halves, because events may alternate by a rule.
    drawn = np.random.default_rng(0).binomial(events["impressions"].to_numpy().astype(np.int64), 0.5)
    known, asked = pl.col("known"), pl.col("impressions") - pl.col("known")
    rated = (
        events.with_columns(value.alias("value"), known=pl.Series(drawn))
        .group_by("value")
        .agg(
            seen=known.sum(),
            clicked=known.dot("label"),
            shown=asked.sum(),
            clicks=asked.dot("label"),
        )
    )
    overall = float(rated["clicked"].sum()) / max(1, int(rated["seen"].sum()))
    rated = rated.with_columns(rate=(pl.col("clicked") + overall) / (pl.col("seen") + 1))
    ordered = rated.group_by("rate").agg(pl.col("shown").sum(), pl.col("clicks").sum()).sort("rate")
    clicks = ordered["clicks"].to_numpy().astype(np.float64)
    rest = ordered["shown"].to_numpy() - clicks
    pairs = clicks.sum() * rest.sum()
    return float((clicks * (np.cumsum(rest) - rest / 2)).sum() / pairs) if pairs else 0.0


def _sampled(events: pl.DataFrame) -> list[str]:
    """Note a log with nearly all events in moments of several impressions to a user, and nearly always one click in
    such a moment: no real log looks like this."""
    if is_counted(events):
        return []
    moments = events.group_by("user_id", "at").agg(shown=pl.len(), clicks=pl.col("label").cast(pl.Int64).sum())
    groups = moments.filter(pl.col("shown") > 1)
    covered = int(groups["shown"].sum()) / max(1, events.height)
    one_click = int((groups["clicks"] == 1).sum()) / max(1, groups.height)
    if groups.height < _FEWEST_GROUPS or covered < _NEARLY_ALL or one_click < _NEARLY_ALL:
        return []
    beside = (int(groups["shown"].sum()) - int(groups["clicks"].sum())) / groups.height
    return [
        f"{one_click:.0%} of the moments hold exactly one click beside {beside:.1f} events without one: it looks as if "
        "those had been sampled beside their click. A model then learns how they were drawn (how often an item occurs "
        "among them) and gains what it will not gain online; bring impressions that were really shown"
    ]
