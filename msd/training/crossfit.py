"""Choice among models on one half of the users, judged on the other half, so that the reported gain is not that of the
luckiest model: by AUC, by logloss, and by the order within users. Knows probabilities, not models.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from msd.bootstrap import interval, resample_metrics
from msd.contract.errors import MsdError
from msd.metrics import Labels, Probabilities, Weights, groups_of, roc_auc

FEWEST_USERS = 20  # per half: an interval over fewer is too wide
_RESAMPLES = 1_000


class CrossfitError(MsdError):
    """Too few users, or one label only: no choice is possible."""


class Gain(BaseModel):
    """AUC of a model, and its gain over the first one with a 95 % interval over users."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    auc: float
    gain: float
    ci95: tuple[float, float] | None


class CrossfitChoice(BaseModel):
    """Result of a choice. `kept`: the first model, `whole`, unless what the halves chose (`by_half`) is surely better
    by one measure, each on the other half, and surely worse by none.

    `gain`, `ci95`: in AUC, of these choices, each on the other half. `others`: intervals of the other measures, greater
    is better: less logloss, and the mean AUC within users. `tried`: of each model, as the mean over both halves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    whole: str
    kept: str
    by_half: tuple[str, str]
    gain: float
    ci95: tuple[float, float] | None
    others: dict[str, tuple[float, float] | None]
    tried: dict[str, Gain]

    def say(self) -> str:
        """Return the choice in words, with figures."""
        if set(self.by_half) == {self.whole}:
            return f"{self.whole} is kept: nothing else ranks either half of valid's users better"
        told = f"{self.gain:+.4f} AUC"
        told += " (95 % over users: {:+.4f} to {:+.4f})".format(*self.ci95) if self.ci95 else " (no interval)"
        for name, ends in self.others.items():
            told += ", {} {:+.4f} to {:+.4f}".format(name, *ends) if ends else ""
        if self.kept != self.whole:
            return f"{self.kept} instead of {self.whole}: chosen on one half of valid's users, {told} on the other"
        return f"{self.whole} is kept: nothing else is surely better, {told} for what one half of valid's users chose"


class _Half(NamedTuple):
    rows: NDArray[np.int64]
    labels: Labels
    users: NDArray[np.int64]
    weights: Weights


@dataclass(frozen=True)
class UserHalves:
    """Rows in two halves by user, drawn at random."""

    halves: tuple[_Half, _Half]

    @classmethod
    def of(cls, labels: Labels, users: NDArray[np.int64], weights: Weights, seed: int = 0) -> Self:
        """Split n rows, given their labels, user numbers and impressions (`weights`). Raises CrossfitError."""
        every = np.unique(users)
        if len(every) < 2 * FEWEST_USERS:
            raise CrossfitError(
                f"the valid rows are of {len(every)} users, too few to choose by: {2 * FEWEST_USERS} are needed"
            )
        first = np.isin(users, np.random.default_rng(seed).permutation(every)[: len(every) // 2])
        halves = [
            _Half(rows, labels[rows], users[rows], weights[rows]) for rows in map(np.flatnonzero, (first, ~first))
        ]
        for half in halves:
            if half.labels.min() == half.labels.max():
                raise CrossfitError(
                    f"all {len(half.labels)} valid rows of one half of the users have label {half.labels[0]:g}: "
                    "no model ranks them better than another"
                )
        return cls((halves[0], halves[1]))

    def choose(self, said: Mapping[str, Probabilities]) -> CrossfitChoice:
        """Choose a model by the models' probabilities [n]. The first is the whole one; the others are simpler, the
        simplest of them first."""
        names, every = list(said), np.stack(list(said.values()))
        auc = np.stack([[roc_auc(half.labels, one[half.rows], half.weights) for one in every] for half in self.halves])
        resampled = [
            resample_metrics(half.labels, every[:, half.rows], half.users, _RESAMPLES, place, half.weights)
            for place, half in enumerate(self.halves)
        ]
        drawn = np.stack([one.auc for one in resampled])
        gains, drawn_gains = auc - auc[:, :1], drawn - drawn[:, :1]
        # Each half chooses by its own rows; ties go to the simplest, and to the whole one last.
        order = [*range(1, len(names)), 0]
        chosen = [order[int(np.argmax(half[order]))] for half in auc]
        crossed = np.mean([drawn_gains[1 - half, chosen[half]] for half in (0, 1)], axis=0)
        less_loss = [one.logloss[0] - one.logloss for one in resampled]
        within = [_within(half, every[:, half.rows], place) for place, half in enumerate(self.halves)]
        others = {
            name: interval(np.mean([of_half[1 - half][chosen[half]] for half in (0, 1)], axis=0))
            for name, of_half in (("less logloss", less_loss), ("AUC within users", within))
        }
        ends = interval(crossed)
        known = [one for one in (ends, *others.values()) if one is not None]
        sure = any(low > 0 for low, _ in known) and not any(high < 0 for _, high in known)
        mean, drawn_mean = auc.mean(0), drawn.mean(0)
        return CrossfitChoice(
            whole=names[0],
            kept=names[_better(chosen, mean, drawn_mean) if sure else 0],
            by_half=(names[chosen[0]], names[chosen[1]]),
            gain=float(np.mean([gains[1 - half, chosen[half]] for half in (0, 1)])),
            ci95=ends,
            others=others,
            tried={
                name: Gain(
                    auc=mean[place], gain=mean[place] - mean[0], ci95=interval(drawn_mean[place] - drawn_mean[0])
                )
                for place, name in enumerate(names)
            },
        )


def _within(half: _Half, said: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Return each model's gain over the first in the mean AUC within users, weighted by impressions, over resamples of
    these [M, R]; NaN if no user has both labels."""
    rows = [own for own in groups_of(half.users) if 0 < half.labels[own].sum() < len(own)]
    if not rows:
        return np.full((len(said), _RESAMPLES), np.nan)
    aucs = np.array([[roc_auc(half.labels[own], one[own], half.weights[own]) for own in rows] for one in said])
    shown = np.array([half.weights[own].sum() for own in rows])
    rng = np.random.default_rng(seed)
    drawn = shown * rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), _RESAMPLES)
    gains: NDArray[np.float64] = (aucs - aucs[:1]) @ (drawn / drawn.sum(1, keepdims=True)).T
    return gains


def _better(chosen: list[int], mean: NDArray[np.float64], drawn: NDArray[np.float64]) -> int:
    """Return the simpler of two choices, unless the other is surely better."""
    simpler, other = sorted(chosen, key=lambda place: place or len(mean))
    ends = interval(drawn[other] - drawn[simpler])
    return other if ends is not None and ends[0] > 0 else simpler
