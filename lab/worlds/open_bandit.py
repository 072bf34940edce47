"""Open Bandit Dataset (Saito et al. 2021, arXiv 2008.07146): do estimates from one policy's log find another's rate?

The obp wheel has 10,000 impressions of each of two policies in three campaigns of a fashion shop. One chose items
uniformly, so its own click rate is the truth for estimates of the uniform policy from the other's log.
"""

import tempfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from msd.dataset.samples import CAMPAIGNS, WHEEL_SHA256, obp_wheel, read_obp
from msd.feedback.arms import Estimate
from msd.feedback.policy_value import ExploredRequests, PolicyValue, Rewards, support, value_of

NAME = "open-bandit"
_COLUMNS = {"item_id": pl.Int64, "click": pl.Float64, "propensity_score": pl.Float64}
_LOGGED, _UNIFORM = "bts", "random"
_STRENGTH = 200.0  # impressions by which an item's click rate is smoothed
_PER = 1_000


class Judged(NamedTuple):
    """One campaign, clicks per 1,000 impressions: of the uniform policy's own log, and what the other log says of it.
    `effective`: the number of equally weighted impressions that would say as much; `largest` weight."""

    campaign: str
    truth: Estimate
    found: PolicyValue
    effective: float
    largest: float

    def figures(self) -> dict[str, Any]:
        """Return the figures as JSON."""
        estimates = {"uniform": self.truth, **self.found._asdict()}
        told = {name: {"value": one.value, "ci95": list(one.ci95)} for name, one in estimates.items()}
        return {"campaign": self.campaign, **told, "effective": self.effective, "largest_weight": self.largest}


def judge_open_bandit(wheel: Path | None = None, sha256: str = WHEEL_SHA256) -> list[Judged]:
    """Estimate the uniform policy's click rate from the other policy's log of each campaign. `wheel`: the downloaded
    file; otherwise pip fetches it. Raises ArchiveError."""
    with tempfile.TemporaryDirectory(prefix="msd-open-bandit-") as temporary:
        path = obp_wheel(Path(temporary), wheel, sha256)
        with zipfile.ZipFile(path) as archive:
            return [_judge(archive, campaign) for campaign in CAMPAIGNS]


def _judge(archive: zipfile.ZipFile, campaign: str) -> Judged:
    items = _table(archive, campaign, _LOGGED, "item_context")["item_id"].n_unique()
    rows = _explored(_table(archive, campaign, _LOGGED, campaign), items)
    uniform = _table(archive, campaign, _UNIFORM, campaign)["click"].to_numpy()
    error = 1.96 * float(uniform.std(ddof=1)) / float(np.sqrt(len(uniform)))
    rate = float(uniform.mean())
    truth = Estimate(_PER * rate, (_PER * (rate - error), _PER * (rate + error)))
    known = support(rows)
    return Judged(campaign, truth, value_of(rows, "ctr", _PER), known.effective, known.largest)


def _table(archive: zipfile.ZipFile, campaign: str, policy: str, name: str) -> pl.DataFrame:
    frame = read_obp(archive, policy, campaign, name)
    return frame.select(pl.col(column).cast(kind) for column, kind in _COLUMNS.items() if column in frame.columns)


def _explored(log: pl.DataFrame, items: int) -> ExploredRequests:
    """Return the log's impressions, each of a user of its own: IDs of users are not published. An item's click rate is
    predicted from the other half of the log."""
    count = log.height
    item, click = log["item_id"].to_numpy(), log["click"].to_numpy()
    half = np.random.default_rng(0).permutation(count) % 2
    predicted, of_target = np.zeros(count), np.zeros(count)
    for own in (0, 1):
        other = half != own
        shown, clicks = np.bincount(item[other], minlength=items), np.bincount(item[other], click[other], items)
        rates = (clicks + _STRENGTH * click[other].mean()) / (shown + _STRENGTH)
        predicted[half == own], of_target[half == own] = rates[item[half == own]], rates.mean()
    return ExploredRequests(
        users=np.arange(count),
        propensity=log["propensity_score"].to_numpy(),
        target=np.full(count, 1.0 / items),
        rewards={"ctr": Rewards(click, predicted, of_target)},
    )
