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
CANDIDATES, BOTS = 6, 20
_SEGMENTS, _ITEMS, _USERS = 4, 60, 20_000
_BASE, _APPEAL, _TASTE, _ZEAL = -2.6, 0.5, 0.7, 0.4
_ERROR = 0.15
"""Standard deviation of a model's log-odds around what it learned."""
_BOTS_SHARE, _BOTS_CLICK, _EXAMINED = 0.1, 0.9, 0.5
_SHARES = (0.01, 0.1)
"""Shares of requests whose first candidate is drawn uniformly."""


@dataclass(frozen=True)
class Requests:
    """n requests: users, their segments, candidates [n, K], and bots; log-odds of candidates [n, K] that models know
    besides their own tables, and that they do not know."""

    user: Ints
    segment: Ints
    items: Ints
    known: Floats
    unknown: Floats
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
    """One night of a kind. Tables of log-odds of clicks by segment and item [S, I]: the law's in the log and later, and
    those of the old and the new model. `share`: of requests that explore; drawn if None."""

    users, segments, items = _USERS, _SEGMENTS, _ITEMS

    def __init__(self, kind: str, seed: int, share: float | None = None) -> None:
        self.kind, self.rng = kind, np.random.default_rng((seed, KINDS.index(kind)))
        rng, (before, moved) = self.rng, self._draw(seed)
        self.is_cpm, self.slots, self.bots = np.arange(self.items) % 6 == 0, 1, np.zeros(self.items, bool)
        self.bids = np.exp(rng.normal(0, 0.5, self.items))
        self.law = self.later = before
        asked = self.requests(50_000)
        shown = np.bincount(asked.items.ravel(), minlength=self.items)
        chances = sigmoid(self._odds(before, asked)).ravel()
        self.rates = np.bincount(asked.items.ravel(), chances, self.items) / np.maximum(shown, 1)
        # An ad that is paid by impressions costs about what it is worth.
        self.bids[self.is_cpm] *= 1_000 * self.rates[self.is_cpm]
        drawn = float(rng.choice(_SHARES))
        self.share = drawn if share is None else share
        self.old, self.new = self._near(before), before
        learned, error = self._learned(before, before + rng.uniform(0.2, 0.8) * moved)
        self.new = self._near(learned, error)

    def _draw(self, seed: int) -> tuple[Floats, Floats]:
        """Draw users and ads, and return the law's table before and a direction in which it may move."""
        rng, shape = self.rng, (self.segments, self.items)
        self._zeal = rng.normal(0, _ZEAL, self.users + BOTS)
        visits = np.cumsum(np.exp(rng.normal(0, 1, self.users)))
        self._visits = visits / visits[-1]
        taste = rng.normal(0, _TASTE, (self.segments, 5))[:, np.arange(self.items) % 5]
        return _BASE + rng.normal(0, _APPEAL, self.items) + taste, rng.normal(0, 1, shape)

    def _learned(self, before: Floats, moved: Floats) -> tuple[Floats, float]:
        """Set what is of this kind, and return what the new model learned, and its error."""
        rng = self.rng
        if self.kind == "drift":
            self.law = self.later = moved
        elif self.kind == "fad":
            self.law = moved
        elif self.kind == "bots":
            self.bots[rng.choice(np.flatnonzero(~self.is_cpm), 5, replace=False)] = True
            rates = np.clip(self.rates, 1e-3, 1 - 1e-3)
            clicked = (1 - _BOTS_SHARE) * rates + _BOTS_SHARE * _BOTS_CLICK
            lift = np.log(clicked / (1 - clicked)) - np.log(rates / (1 - rates))
            return before + np.where(self.bots, lift, 0.0), _ERROR
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
        user, is_bot = self._visitors(np.searchsorted(self._visits, rng.random(count)))
        items = rng.integers(self.items, size=(count, CANDIDATES))
        zeal = np.broadcast_to(self._zeal[user, None], items.shape)
        return Requests(user, user % self.segments, items, np.zeros(items.shape), zeal, is_bot)

    def _visitors(self, user: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """Replace some users by bots, if there are any, and return who is one."""
        is_bot = self.rng.random(len(user)) < (_BOTS_SHARE if self.bots.any() else 0.0)
        user[is_bot] = self.users + self.rng.integers(BOTS, size=int(is_bot.sum()))
        return user, is_bot

    def pctr(self, logits: Floats, asked: Requests) -> Floats:
        """Return the click probabilities of candidates [n, K] by a model."""
        return sigmoid(logits[asked.segment[:, None], asked.items] + asked.known)

    def values(self, logits: Floats, asked: Requests) -> Floats:
        """Return the eCPM ÷ 1,000 of candidates [n, K] by a model."""
        return self._worth(self.pctr(logits, asked), asked)

    def _worth(self, chances: Floats, asked: Requests) -> Floats:
        bids = self.bids[asked.items]
        return np.where(self.is_cpm[asked.items], bids / 1_000, bids * chances)

    def _odds(self, law: Floats, asked: Requests) -> Floats:
        odds: Floats = law[asked.segment[:, None], asked.items] + asked.known + asked.unknown
        return odds

    def clicks(self, law: Floats, asked: Requests, places: Ints) -> NDArray[np.bool_]:
        """Draw whether the candidate at a place of each request is clicked [n]."""
        chances = sigmoid(_at(self._odds(law, asked), places))
        chances = np.where(asked.is_bot & self.bots[_at(asked.items, places)], _BOTS_CLICK, chances)
        return self.rng.random(len(places)) < chances

    def gain(self, count: int = 200_000) -> tuple[float, float]:
        """Return how much more than the old model the new one earns of people, a share, by the law that comes; and what
        exploring costs the old one."""
        asked = self.requests(count)
        old, new, drawn = (self.revenue(model, asked) for model in (self.old, self.new, None))
        return new / old - 1, self.share * (1 - drawn / old)

    def revenue(self, model: Floats | None, asked: Requests) -> float:
        """Return what a request of people earns by the law that comes; without a model, that of a uniform draw."""
        worth = self._worth(sigmoid(self._odds(self.later, asked)), asked)[~asked.is_bot]
        return float(worth.mean() if model is None else _at(worth, self._best(model, asked)[~asked.is_bot]).mean())

    def shown(self, law: Floats, count: int) -> tuple[Ints, Ints, NDArray[np.bool_]]:
        """Return segments, items and clicks [n] of the old model's first candidates, some of which are drawn."""
        asked = self.requests(count)
        drawn, places = self.rng.random(count) < self.share, self.rng.integers(CANDIDATES, size=count)
        places = np.where(drawn, places, self._best(self.old, asked))
        return asked.segment, _at(asked.items, places), self.clicks(law, asked, places)

    def _best(self, model: Floats, asked: Requests) -> Ints:
        best: Ints = self.values(model, asked).argmax(1)
        return best

    def _second_share(self) -> Floats:
        """Return how many of each segment's and item's impressions are in the second slot [S, I]."""
        asked = self.requests(100_000)
        order = np.argsort(-self.values(self.old, asked), axis=1)[:, :2]
        counts = np.zeros((2, self.segments, self.items))
        for slot in range(2):
            np.add.at(counts[slot], (asked.segment, _at(asked.items, order[:, slot])), 1)
        share: Floats = counts[1] / np.maximum(counts.sum(0), 1)
        return share

    def log(self, count: int) -> tuple[pl.DataFrame, pl.DataFrame, MadeBundle, MadeBundle]:
        """Return logged requests, their joined impressions, and both models."""
        asked, rng, rows = self.requests(count), self.rng, np.arange(count)
        greedy = self.values(self.old, asked).argmax(1)
        explored = rng.random(count) < self.share
        first = np.where(explored, rng.integers(CANDIDATES, size=count), greedy)
        propensity = np.where(first == greedy, 1 - self.share, 0.0) + self.share / CANDIDATES
        scores = [self.pctr(one, asked).astype(np.float32) for one in (self.old, self.new)]
        # Items may repeat: a place's ID is unique.
        ids = np.char.add(asked.items.astype(str), [f".{place}" for place in range(CANDIDATES)])
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
                "scores": pl.Series(scores[0]).reshape((count, 1, CANDIDATES)),
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
        rows, items = np.arange(len(places)), _at(asked.items, places)
        clicked = self.clicks(self.law, asked, places) & (self.rng.random(len(rows)) < _EXAMINED**slot)
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
                "segments": _lists(
                    np.array([["known", f"segment={one}"] for one in range(self.segments)])[asked.segment]
                ),
            }
        )

    def rollout(self, share: float, times: list[float], requests_a_day: int) -> Iterator[pl.DataFrame]:
        """Yield what a stage's arms have shown by each time (s)."""
        is_new = np.random.default_rng(int(1e6 * share)).random(self.users + BOTS) < share
        shown = pl.DataFrame()
        for at in times:
            more = self._arms(is_new, int(requests_a_day * at / DAY_S) - shown.height, shown.height)
            shown = pl.concat([shown, more]) if shown.height else more
            yield shown

    def _arms(self, is_new_user: NDArray[np.bool_], count: int, start: int) -> pl.DataFrame:
        asked = self.requests(count)
        is_new = is_new_user[asked.user]
        old, new = (self.values(model, asked).argmax(1) for model in (self.old, self.new))
        places = np.where(is_new, new, old)
        items = _at(asked.items, places)
        chances = np.where(is_new, *(_at(self.pctr(model, asked), places) for model in (self.new, self.old)))
        return pl.DataFrame(
            {
                "request_id": start + np.arange(count),
                "user_id": asked.user,
                "arm": np.where(is_new, "new", "champion"),
                "label": self.clicks(self.later, asked, places).astype(np.int8),
                "pctr": chances,
                "bid": self.bids[items],
                "pricing": np.where(self.is_cpm[items], "cpm", "cpc"),
                "total_ms": 1.0,
                "differs": old != new,
            }
        )


def _at(table: NDArray[Any], places: Ints) -> NDArray[Any]:
    """Return one value [n] of each row of a table [n, K]."""
    return np.take_along_axis(table, places[:, None], 1)[:, 0]


def _lists(table: NDArray[Any]) -> pl.Series:
    """Return a table's rows [n, K] as lists."""
    return pl.Series(table.ravel()).reshape(table.shape).arr.to_list()
