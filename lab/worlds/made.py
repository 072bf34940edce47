"""Traffic of a made world: the log, which is a dataset, and auctions of the next day, whose revenue is exact."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lab.worlds.law import DAY_S, START_S, Floats, Impressions, Ints, Law, draw_contexts, draw_law
from lab.worlds.recipe import Recipe

CANDIDATES = 20
_AT_ONCE = 2_000
_BID_SPREAD = 0.4
_JUDGED_BY = 0.7  # noise of the scores by which a page's ads were placed, in log-odds


class Auctions(NamedTuple):
    """A auctions of N candidates each: what would be shown [A · N], auction by auction, with bids [A, N] and the law's
    click probabilities [A, N] in the first slot. `paid` [A, N]: the probability of what a bid is for, which is a click
    or, in a world with conversions, a conversion. `slots`: how likely each slot is seen."""

    shown: Impressions
    bids: Floats
    chances: Floats
    paid: Floats
    slots: tuple[float, ...]

    def earned(self, scores: Floats, places: int = 1) -> Floats:
        """Return the expected revenue [A] per 1,000 of each auction, if the `places` candidates with the highest bid ×
        score are shown. `scores` [A · N]: probabilities of what is paid for. Of ties, the first candidate wins."""
        value = self.bids * scores.reshape(self.bids.shape)
        ranked = np.argsort(-value, axis=1, kind="stable")[:, :places]
        seen = np.array([*self.slots, *([self.slots[-1]] * places)])[: ranked.shape[1]]
        found = np.take_along_axis(self.bids * self.paid, ranked, 1) * seen / self.slots[0]
        return np.asarray(1_000 * found.sum(1), np.float64)

    def revenue(self, scores: Floats, places: int = 1) -> float:
        """Return the expected eCPM (per 1,000 requests): the mean of `earned`."""
        return float(self.earned(scores, places).mean())

    def within_auc(self, scores: Floats) -> float:
        """Return the expected AUC of `scores` [A · N] within an auction: the share of pairs of a clicked and an
        unclicked candidate that they rank right, over all clicks that the law could draw. A tie counts half. NaN for
        auctions of one candidate."""
        found, chance = scores.reshape(self.bids.shape), self.chances
        right = pairs = 0.0
        for place in range(self.bids.shape[1]):
            both = chance[:, place, None] * (1 - chance)
            both[:, place] = 0.0
            gap = found[:, place, None] - found
            right += float((both * ((gap > 0) + 0.5 * (gap == 0))).sum())
            pairs += float(both.sum())
        return right / pairs if pairs else float("nan")


@dataclass(frozen=True)
class MadeWorld:
    """A law and a log of it, sorted by time: impressions, their true click probabilities [n] and clicks [n]. With
    conversions: whether clicks convert in the end [n], and after how many seconds."""

    law: Law
    shown: Impressions
    truth: Floats
    clicks: NDArray[np.bool_]
    converted: NDArray[np.bool_]
    delay_s: Ints
    seed: int

    @property
    def recipe(self) -> Recipe:
        return self.law.recipe

    @cached_property
    def _seen(self) -> tuple[Ints, Ints]:
        """Each pair of a user and an ad, as one number, and its impressions."""
        return np.unique(self._pairs(self.shown.user, self.shown.ad), return_counts=True)

    def _pairs(self, user: Ints, ad: Ints) -> Ints:
        return user * len(self.law.ads.topic) + ad

    def auctions(
        self, count: int = 2_000, candidates: int = CANDIDATES, seed: int = 0, at: int | None = None
    ) -> Auctions:
        """Draw auctions of the day after the log, of ads that run at its end, all of them if they are fewer than
        `candidates`. Users have seen what the log has. `at`: of this second instead, and of ads that run then."""
        rng, law = np.random.default_rng([self.seed, seed, 1]), self.law
        second, device = draw_contexts(rng, count)
        user = rng.choice(len(law.users.segment), count, p=law.users.later_visits)
        end = law.ends_at if at is None else at
        last, second = np.full(count, end), second if at is None else np.zeros_like(second)
        running = (law.ads.starts < end) & (law.ads.ends >= end)
        candidates = min(candidates, int(running.sum()))
        ads = _draw_ads(law, last - 1, user, candidates, rng).ravel()
        of = np.repeat(np.arange(count), candidates)
        pairs, times = self._seen
        asked = self._pairs(user[of], ads)
        place = np.minimum(np.searchsorted(pairs, asked), len(pairs) - 1)
        seen = np.where(pairs[place] == asked, times[place], 0)
        shown = Impressions((last + second)[of], user[of], ads, device[of], np.zeros(len(of), np.int64), seen)
        chances = law.chances(shown).reshape(count, candidates)
        # An advertiser bids about alike for all its ads.
        own = rng.normal(0.0, _BID_SPREAD, law.recipe.advertisers)
        bids = np.exp(own[law.ads.advertiser[ads]] + rng.normal(0.0, _BID_SPREAD, len(of))).reshape(chances.shape)
        of_click = law.conversions(shown).reshape(chances.shape) if law.recipe.late_days is not None else 1.0
        return Auctions(shown, bids, chances, chances * of_click, law.recipe.slots)


def make_world(recipe: Recipe, seed: int = 0) -> MadeWorld:
    """Draw a law and a log of it. Equal recipes and seeds give equal worlds."""
    rng = np.random.default_rng(seed)
    law = draw_law(recipe, rng)
    shown = _draw_log(law, rng)
    law = law.with_rate(shown)
    truth = law.chances(shown)
    clicks = rng.random(len(truth)) < truth
    converted = clicks & (rng.random(len(truth)) < law.conversions(shown))
    delay_s = np.ceil(rng.exponential((recipe.late_days or 0.0) * DAY_S, len(truth))).astype(np.int64)
    return MadeWorld(law, shown, truth, clicks, converted, delay_s, seed)


def _draw_log(law: Law, rng: np.random.Generator) -> Impressions:
    """Draw requests in time, each a page of ads by their popularity; the slots of a page have the likelier ads first,
    as an earlier, noisy model placed them."""
    recipe, slots = law.recipe, len(law.recipe.slots)
    user = _draw_visitors(law, recipe.rows // slots, rng)
    second, device = draw_contexts(rng, len(user))
    at = START_S + DAY_S * rng.integers(recipe.days, size=len(user)) + second
    order = np.argsort(at, kind="stable")
    at, user, device = at[order], user[order], device[order]
    ads = _draw_ads(law, at, user, slots, rng)
    of = np.repeat(np.arange(len(user)), slots)
    nothing = np.zeros(len(of), np.int64)
    if slots > 1:
        page = Impressions(at[of], user[of], ads.ravel(), device[of], nothing, nothing)
        judged = law.odds(page) + rng.normal(0.0, _JUDGED_BY, len(of))
        ads = np.take_along_axis(ads, np.argsort(-judged.reshape(ads.shape), axis=1), 1)
    slot = np.tile(np.arange(slots), len(user))
    shown = Impressions(at[of], user[of], ads.ravel(), device[of], slot, nothing)
    return shown._replace(seen=_seen_before(shown.user * len(law.ads.topic) + shown.ad))


def _draw_visitors(law: Law, requests: int, rng: np.random.Generator) -> Ints:
    """Return the user of each request: in the recipe's share, users come exactly once."""
    again = law.recipe.users
    single = np.flatnonzero(law.users.visits[again:]) + again
    single = single[: requests * len(single) // law.recipe.rows] if len(law.recipe.slots) > 1 else single
    share = law.users.visits[:again] / law.users.visits[:again].sum()
    drawn = rng.choice(again, requests - len(single), p=share)
    return np.asarray(rng.permutation(np.concatenate([drawn, single])), np.int64)


def _draw_ads(law: Law, at: Ints, user: Ints, count: int, rng: np.random.Generator) -> Ints:
    """Return [R, count] different ads that run at the times [R], drawn by popularity (the Gumbel trick)."""
    ads, found = law.ads, np.zeros((len(at), count), np.int64)
    for start in range(0, len(at), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        running = np.flatnonzero((ads.starts <= at[rows].max()) & (ads.ends > at[rows].min()))
        keys = ads.popularity[running] + rng.gumbel(size=(len(at[rows]), len(running)))
        if law.targeting is not None:
            keys += law.targeting[user[rows]][:, running]
        runs = (ads.starts[running] <= at[rows, None]) & (at[rows, None] < ads.ends[running])
        keys[~runs] = -np.inf
        best = np.argsort(-keys, axis=1)[:, :count] if count > 1 else keys.argmax(1)[:, None]
        found[rows] = running[best]
    return found


def _seen_before(pairs: Ints) -> Ints:
    """Return how often each row's pair occurs in earlier rows."""
    order = np.argsort(pairs, kind="stable")
    held = pairs[order]
    starts = np.flatnonzero(np.append(True, held[1:] != held[:-1]))
    before = np.empty(len(pairs), np.int64)
    before[order] = np.arange(len(pairs)) - np.repeat(starts, np.diff(np.append(starts, len(pairs))))
    return before
