"""Evidence that a column is known only after the impression: its name, values that only clicks have, and a prediction
of clicks that is too good.
"""

import re
from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl

from msd.dataset.config import clean_name
from msd.metrics import roc_auc

_WORDS = (
    *r"conv conversions? converted purchas\w* bought orders? installs? installed signups? leads? revenue sales".split(),
    *r"umsatz erloes kosten kauf\w* gekauft bestell\w* payout costs? spend spent".split(),
    *r"(win|pay|paid|paying|clearing|market)_?price winners? won first_place significance p_value lift outcome".split(),
    *r"clicked_at click_time clicks? ctr dwell\w* (watch|play)_?time time_spent bounce\w* scroll\w*".split(),
    *r"view(ed|able|ability) completed completion verified helpful\w* votes? upvotes likes shares comments".split(),
    *r"dislikes? disliked reviews? ratings? overall stars".split(),
)
_NAMES = re.compile(rf"(^|_)({'|'.join(_WORDS)})($|_)")
CALLED_AFTERWARDS = "its name speaks of what happens after the impression"
_TOO_GOOD = 0.9
_FEW_CLICKS, _MOST_ROWS = 20, 200_000
_EXCEPTIONS = 0.03
_CHANCE = 1e-6  # that as many values fall on clicks alone
_BINS = 32


@dataclass(frozen=True)
class Shown:
    """The impressions [n] and clicks [n] of each row, and whether a row is one impression."""

    impressions: pl.Series
    clicks: pl.Series

    @classmethod
    def of(cls, core: pl.DataFrame) -> Self:
        """Return those of core columns: counts, or a label."""
        ones = pl.Series("impressions", [1]).new_from_index(0, core.height)
        impressions = core["impressions"] if "impressions" in core.columns else ones
        return cls(impressions, core["clicks"] if "clicks" in core.columns else core["label"] * impressions)

    @property
    def single(self) -> bool:
        """Whether each row is one impression."""
        return bool((self.impressions == 1).all())


def is_called_afterwards(name: str) -> bool:
    """Return whether a name describes something after the impression."""
    return _NAMES.search(clean_name(name)) is not None


def doubt(name: str, values: pl.Series, shown: Shown) -> str | None:
    """Return the evidence that a feature's canonical values [n] are known only after the impression; None without
    any. Of many rows, a sample is asked."""
    if values.len() > _MOST_ROWS:
        rows = np.random.default_rng(0).choice(values.len(), _MOST_ROWS, replace=False)
        values, shown = values.gather(rows), Shown(shown.impressions.gather(rows), shown.clicks.gather(rows))
    evidence = [CALLED_AFTERWARDS] if is_called_afterwards(name) else []
    if only := _only_clicked(values, shown):
        evidence.append(only)
    if (auc := _auc_alone(values, shown)) >= _TOO_GOOD:
        evidence.append(f"it alone tells clicks from the rest (AUC {auc:.3f})")
    return "; ".join(evidence) or None


def _only_clicked(values: pl.Series, shown: Shown) -> str | None:
    """Return that values other than the usual one of the other rows are almost only where the row was clicked, or was
    not; None if they are not, or chance may explain it, or rows have several values."""
    clicked = shown.clicks > 0
    if not shown.single or clicked.all() or not clicked.any() or isinstance(values.dtype, pl.List):
        return None
    for outcome, when in ((clicked, "when clicked"), (~clicked, "without a click")):
        usual = values.filter(~outcome).mode().sort()[0]
        other = values.ne_missing(pl.Series([usual], dtype=values.dtype))
        count, both, rate = int(other.sum()), int((other & outcome).sum()), float(outcome.sum()) / outcome.len()
        # Exceptions are few beside those that chance would bring.
        if rate**both <= _CHANCE and count - both <= _EXCEPTIONS * (1 - rate) * count:
            what = "it is there" if usual is None else f"it is other than {usual}"
            return f"{what} only {when} ({both:,} of {count:,} rows)"
    return None


def _auc_alone(values: pl.Series, shown: Shown) -> float:
    """Return the AUC, on half of the impressions, of a value's click rate in the other half; numbers are cut into 32
    bins, and a bag has the mean rate of its values. 0.5 if there are too few clicks to tell."""
    clicks = shown.clicks.to_numpy().astype(np.int64)
    rest = shown.impressions.to_numpy().astype(np.int64) - clicks
    if min(clicks.sum(), rest.sum()) < _FEW_CLICKS:
        return 0.5
    if values.dtype == pl.Float64:
        values = (values.rank("min") * _BINS / (values.count() + 1)).floor()
    # Random halves, because rows may alternate by a rule.
    random = np.random.default_rng(0)
    clicked, unclicked = random.binomial(clicks, 0.5), random.binomial(rest, 0.5)
    rows = pl.DataFrame({"value": values, "clicked": clicked, "seen": clicked + unclicked}).with_row_index("row")
    if isinstance(values.dtype, pl.List):  # an empty one may leave its row out
        rows = rows.with_columns(pl.when(pl.col("value").list.len() > 0).then("value")).explode("value")
    overall = float(clicked.sum()) / max(1, int((clicked + unclicked).sum()))
    rate = (pl.col("clicked").sum() + overall) / (pl.col("seen").sum() + 1)
    scores = rows.with_columns(rate=rate.over("value")).group_by("row").agg(pl.col("rate").mean()).sort("row")["rate"]
    asked = pl.DataFrame({"rate": scores, "clicks": clicks - clicked, "rest": rest - unclicked})
    asked = asked.group_by("rate").agg(pl.col("clicks", "rest").sum())
    weights = np.concatenate([asked["clicks"].to_numpy(), asked["rest"].to_numpy()]).astype(np.float64)
    return roc_auc(np.repeat([1.0, 0.0], asked.height), np.tile(asked["rate"].to_numpy(), 2), weights)
