"""A made-up night without training: a law of clicks, two models drawn around it, the log of the old one with
exploration, and the traffic of a rollout. What each model would earn by the law is known.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from msd.contract.pricing import PRICED
from msd.feedback.scored_bundle import ScoredRequest
from msd.metrics import sigmoid

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
KINDS = ("drift", "quiet", "noise", "bots", "fad", "position")
DAY_S = 86_400.0
_SEGMENTS, _ITEMS, _CANDIDATES, _USERS, _BOTS = 4, 60, 6, 20_000, 20
_BASE, _APPEAL, _TASTE, _ZEAL = -2.6, 0.5, 0.7, 0.4
_ERROR = 0.15
"""Standard deviation of a model's log-odds around what it learned."""
_BOTS_SHARE, _BOTS_CLICK, _EXAMINED = 0.1, 0.9, 0.5
_SHARES = (0.01, 0.1)
"""Shares of requests whose first candidate is drawn uniformly."""


@dataclass(frozen=True)
class Requests:
    """n requests: users, their segments, log-odds that a user adds to the law's, candidates [n, K], and bots."""

    user: Ints
    segment: Ints
    zeal: Floats
    items: Ints
    is_bot: NDArray[np.bool_]


@dataclass
class MadeBundle:
    """A model as `judge` sees it: scores by request [n, K], known beforehand."""

    name: str
    pctr: NDArray[np.float32]
    refused: int = 0
    seconds: list[float] = field(default_factory=list)
    data_until: float = 0.0

    @property
    def bundle(self) -> Any:  # noqa: ANN401
        """Return what is read of a bundle."""
        return SimpleNamespace(bundle_id=self.name, manifest=SimpleNamespace(formula=PRICED))

    def state_of(self, row: Mapping[str, Any]) -> None:
        """Return no live state."""

    def score_shown(self, row: Mapping[str, Any], state: object, positions: Collection[int | None]) -> ScoredRequest:
        """Return the scores of a request, whose ID is its number; the same at each position."""
        self.seconds.append(0.001)
        scores = {"pctr": self.pctr[int(row["request_id"])]}
        return ScoredRequest(scores, dict.fromkeys(positions, scores))


class MadeNight:
    """One night of a kind. Log-odds of clicks by segment and item [S, I]: the law's in the log and later, and those of
    the old and the new model."""

    def __init__(self, kind: str, seed: int) -> None:
        self.kind, self.rng = kind, np.random.default_rng((seed, KINDS.index(kind)))
        rng = self.rng
        categories = np.arange(_ITEMS) % 5
        before = _BASE + rng.normal(0, _APPEAL, _ITEMS) + rng.normal(0, _TASTE, (_SEGMENTS, 5))[:, categories]
        self.bids = np.exp(rng.normal(0, 0.5, _ITEMS))
        self.is_cpm = np.arange(_ITEMS) % 6 == 0
        # An ad that is paid by impressions costs about what it is worth.
        self.bids[self.is_cpm] *= 1_000 * sigmoid(before[:, self.is_cpm]).mean(0)
        self.zeal = rng.normal(0, _ZEAL, _USERS + _BOTS)
        self.visits = np.cumsum(np.exp(rng.normal(0, 1, _USERS)))
        self.visits /= self.visits[-1]
        self.share, self.slots, self.bots = float(rng.choice(_SHARES)), 1, np.zeros(_ITEMS, bool)
        self.law = self.later = before
        self.old, self.new = self._near(before), before
        learned, error = self._learned(before)
        self.new = self._near(learned, error)

    def _learned(self, before: Floats) -> tuple[Floats, float]:
        """Set what is of this kind, and return what the new model learned, and its error."""
        rng, moved = self.rng, before + self.rng.normal(0, self.rng.uniform(0.2, 0.8), before.shape)
        if self.kind == "drift":
            self.law = self.later = moved
        elif self.kind == "fad":
            self.law = moved
        elif self.kind == "bots":
            self.bots[rng.choice(np.flatnonzero(~self.is_cpm), 5, replace=False)] = True
            chance = (1 - _BOTS_SHARE) * sigmoid(before) + _BOTS_SHARE * _BOTS_CLICK
            return np.where(self.bots, np.log(chance / (1 - chance)), before), _ERROR
        elif self.kind == "position" and rng.random() < 0.5:
            # The slot has moved, and all ads are clicked less.
            self.law = self.later = before - rng.uniform(0.3, 1.0)
        elif self.kind == "position":
            # A second slot is logged, and trained on as if it were the first.
            self.slots = 2
            return before + np.log(1 - (1 - _EXAMINED) * self._second_share()), _ERROR
        return self.law, rng.uniform(0.25, 0.6) if self.kind == "noise" else _ERROR

    def _near(self, logits: Floats, error: float = _ERROR) -> Floats:
        return logits + self.rng.normal(0, error, logits.shape)

    def requests(self, count: int) -> Requests:
        """Draw requests of users, heavy and light ones, and of bots."""
        rng = self.rng
        user = np.searchsorted(self.visits, rng.random(count))
        is_bot = rng.random(count) < (_BOTS_SHARE if self.bots.any() else 0.0)
        user[is_bot] = _USERS + rng.integers(_BOTS, size=int(is_bot.sum()))
        items = rng.integers(_ITEMS, size=(count, _CANDIDATES))
        return Requests(user, user % _SEGMENTS, self.zeal[user], items, is_bot)

    def values(self, logits: Floats, asked: Requests) -> Floats:
        """Return the eCPM ÷ 1,000 of candidates [n, K] by a model."""
        chances = sigmoid(logits[asked.segment[:, None], asked.items])
        bids = self.bids[asked.items]
        return np.where(self.is_cpm[asked.items], bids / 1_000, bids * chances)

    def clicks(self, law: Floats, asked: Requests, items: Ints) -> NDArray[np.bool_]:
        """Draw whether an item of each request is clicked [n]."""
        chances = sigmoid(law[asked.segment, items] + asked.zeal)
        chances = np.where(asked.is_bot & self.bots[items], _BOTS_CLICK, chances)
        return self.rng.random(len(items)) < chances

    def gain(self, count: int = 200_000) -> float:
        """Return how much more than the old model the new one earns of people, a share, by the law that comes."""
        asked = self.requests(count)
        paid = self.later[asked.segment[:, None], asked.items] + asked.zeal[:, None]
        bids = self.bids[asked.items]
        worth = np.where(self.is_cpm[asked.items], bids / 1_000, bids * sigmoid(paid))[~asked.is_bot]
        old, new = (
            np.take_along_axis(worth, self.values(model, asked).argmax(1)[~asked.is_bot, None], 1).sum()
            for model in (self.old, self.new)
        )
        return float(new / old - 1)

    def _second_share(self) -> Floats:
        """Return how many of each segment's and item's impressions are in the second slot [S, I]."""
        asked = self.requests(100_000)
        order = np.argsort(-self.values(self.old, asked), axis=1)[:, :2]
        counts = np.zeros((2, _SEGMENTS, _ITEMS))
        for slot in range(2):
            items = np.take_along_axis(asked.items, order[:, [slot]], 1)[:, 0]
            np.add.at(counts[slot], (asked.segment, items), 1)
        share: Floats = counts[1] / np.maximum(counts.sum(0), 1)
        return share

    def log(self, count: int) -> tuple[pl.DataFrame, pl.DataFrame, MadeBundle, MadeBundle]:
        """Return logged requests, their joined impressions, and both models."""
        asked, rng, rows = self.requests(count), self.rng, np.arange(count)
        greedy = self.values(self.old, asked).argmax(1)
        explored = rng.random(count) < self.share
        first = np.where(explored, rng.integers(_CANDIDATES, size=count), greedy)
        propensity = np.where(first == greedy, 1 - self.share, 0.0) + self.share / _CANDIDATES
        scores = [sigmoid(one[asked.segment[:, None], asked.items]).astype(np.float32) for one in (self.old, self.new)]
        # Items may repeat: a place's ID is unique.
        ids = np.char.add(asked.items.astype(str), [f".{place}" for place in range(_CANDIDATES)])
        requests = pl.DataFrame(
            {
                "request_id": list(map(str, rows)),
                "user_id": list(map(str, asked.user)),
                "bundle_id": "old",
                "item_ids": _lists(ids),
                "bids": _lists(self.bids[asked.items]),
                "pricing": _lists(np.where(self.is_cpm, "cpm", "cpc")[asked.items]),
                "first": first.astype(np.int32),
                "propensity": propensity,
                "heads": pl.Series([["pctr"]]).new_from_index(0, count),
                "scores": pl.Series(scores[0]).reshape((count, 1, _CANDIDATES)),
            }
        )
        choice = (pl.lit("uniform").alias("policy"), pl.lit(False).alias("explored"), "first", "propensity")
        requests = requests.with_columns(explore=pl.struct(choice)).drop("first", "propensity")
        places = [first]
        if self.slots == 2:
            ranked = self.values(self.old, asked)
            ranked[rows, first] = -np.inf
            places.append(ranked.argmax(1))
        shown = pl.concat([self._shown(asked, one, slot, ids) for slot, one in enumerate(places)])
        old, new = (MadeBundle(name, one) for name, one in zip(("old", "new"), scores, strict=True))
        return requests, shown, old, new

    def _shown(self, asked: Requests, places: Ints, slot: int, ids: NDArray[np.str_]) -> pl.DataFrame:
        """Return the joined impressions of candidates in one slot."""
        rows = np.arange(len(places))
        items = asked.items[rows, places]
        clicked = self.clicks(self.law, asked, items) & (self.rng.random(len(rows)) < _EXAMINED**slot)
        return pl.DataFrame(
            {
                "request_id": list(map(str, rows)),
                "user_id": list(map(str, asked.user)),
                "item_id": ids[rows, places],
                "at": rows + 1.0,
                "position": np.full(len(clicked), slot + 1),
                "label": clicked.astype(np.int8),
                "bid": self.bids[items],
                "pricing": np.where(self.is_cpm[items], "cpm", "cpc"),
                "segments": _lists(np.array([["known", f"segment={one}"] for one in range(_SEGMENTS)])[asked.segment]),
            }
        )

    def rollout(self, share: float, times: list[float], requests_a_day: int) -> Iterator[pl.DataFrame]:
        """Yield what a stage's arms have shown by each time (s)."""
        asked = self.requests(int(requests_a_day * times[-1] / DAY_S))
        is_new = np.random.default_rng(int(1e6 * share)).random(_USERS + _BOTS)[asked.user] < share
        places = np.where(is_new, *(self.values(model, asked).argmax(1) for model in (self.new, self.old)))
        rows = np.arange(len(places))
        items = asked.items[rows, places]
        chances = np.where(is_new, *(sigmoid(model[asked.segment, items]) for model in (self.new, self.old)))
        shown = pl.DataFrame(
            {
                "request_id": rows,
                "user_id": asked.user,
                "arm": np.where(is_new, "new", "champion"),
                "label": self.clicks(self.later, asked, items).astype(np.int8),
                "pctr": chances,
                "bid": self.bids[items],
                "pricing": np.where(self.is_cpm[items], "cpm", "cpc"),
                "total_ms": 1.0,
            }
        )
        for at in times:
            yield shown[: int(requests_a_day * at / DAY_S)]


def _lists(table: NDArray[Any]) -> pl.Series:
    """Return a table's rows [n, K] as lists."""
    return pl.Series(table.ravel()).reshape(table.shape).arr.to_list()
