"""Law of clicks of a made world: users, ads, and the true probability that a user in a context clicks an ad.

Log-odds are a sum: the user's own, the ad's lure, tastes for the ad's topic of the user's segment, of the user and of
the hour, device and hour by themselves, and fatigue. Knows no dataset and no model.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lab.worlds.recipe import Recipe

DAY_S, HOUR_S = 86_400, 3_600
START_S = 1_764_547_200
"""The log's first second: Monday, 1 December 2025, UTC."""
DEVICES = ("android", "ios", "desktop")
_DEVICE_SHARES = (0.5, 0.3, 0.2)
_DEVICE, _HOUR, _ERA = 0.25, 0.2, 0.3
_MOST_SEEN = 5
_CONVERTS, _CONVERSION_TASTE = -1.4, 0.7
_STEPS = 60
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Impressions(NamedTuple):
    """Ads shown, as columns [n]: Unix second, user, ad, device, slot (0 is the first) and how often this user saw the
    ad before."""

    at: Ints
    user: Ints
    ad: Ints
    device: Ints
    slot: Ints
    seen: Ints

    def among(self, rows: NDArray[np.bool_] | Ints) -> "Impressions":
        """Return some of the rows."""
        return Impressions(*(column[rows] for column in self))

    @property
    def hour(self) -> Ints:
        """The hours of the day, 0 to 23."""
        return self.at % DAY_S // HOUR_S

    @property
    def weekday(self) -> Ints:
        """The days of the week, 0 is Monday."""
        return (self.at - START_S) // DAY_S % 7


class Ads(NamedTuple):
    """The ads, as columns [A]: topic, advertiser, lure (log-odds), log popularity, and first and last second."""

    topic: Ints
    advertiser: Ints
    lure: Floats
    popularity: Floats
    starts: Floats
    ends: Floats


class Users(NamedTuple):
    """The users, as columns [U]: segment, own log-odds, share of the log's visits and of later ones, whether a bot;
    `taste` [2, U, T] for topics, before and after a drift."""

    segment: Ints
    own: Floats
    visits: Floats
    later_visits: Floats
    bot: NDArray[np.bool_]
    taste: Floats


@dataclass(frozen=True)
class Law:
    """The law of one world and seed. Tastes by topic: `segment` [2, S, T], `hour` [24, T], `weekday` [7, T]; `topic`,
    `device` and `daytime` by themselves; `conversion` [S, T] of clicks. `targeting` [U, A]: of the log frequency at
    which a user is shown an ad, if it differs. `base`: the log-odds that all share."""

    recipe: Recipe
    users: Users
    ads: Ads
    topic: Floats
    segment: Floats
    hour: Floats
    weekday: Floats
    device: Floats
    daytime: Floats
    conversion: Floats
    targeting: Floats | None
    base: float = 0.0

    def odds(self, shown: Impressions) -> Floats:
        """Return the log-odds [n] of a click by humans who see the slot."""
        topic, user = self.ads.topic[shown.ad], shown.user
        drifted = self.recipe.drift is not None
        era = (shown.at >= self.changes_at).astype(np.int64) if drifted else np.zeros(len(user), np.int64)
        total: Floats = self.base + self.users.own[user] + self.ads.lure[shown.ad] + self.topic[topic]
        total += self.segment[era, self.users.segment[user], topic] + self.users.taste[era, user, topic]
        total += self.hour[shown.hour, topic] + self.weekday[shown.weekday, topic]
        total += self.device[shown.device] + self.daytime[shown.hour]
        return total - self.recipe.fatigue * np.minimum(shown.seen, _MOST_SEEN)

    def chances(self, shown: Impressions) -> Floats:
        """Return the true click probabilities [n]: that the slot is seen, times that a user who sees the ad clicks."""
        human = np.array(self.recipe.slots)[shown.slot] / (1 + np.exp(-self.odds(shown)))
        return np.where(self.users.bot[shown.user], self.recipe.bot_rate, human)

    def conversions(self, shown: Impressions) -> Floats:
        """Return the true probabilities [n] that a click converts in the end."""
        own = self.conversion[self.users.segment[shown.user], self.ads.topic[shown.ad]]
        return np.asarray(1 / (1 + np.exp(-_CONVERTS - own)), np.float64)

    @property
    def changes_at(self) -> float:
        """The second of the drift."""
        return START_S + (self.recipe.drift or 0.0) * self.recipe.days * DAY_S

    @property
    def ends_at(self) -> int:
        """The second after the log."""
        return START_S + self.recipe.days * DAY_S

    def with_rate(self, shown: Impressions) -> "Law":
        """Return the law with the base that gives the recipe's rate as the mean over impressions of humans."""
        humans = shown.among(~self.users.bot[shown.user])
        low, high = -20.0, 20.0
        for _ in range(_STEPS):
            law = replace(self, base=(low + high) / 2)
            low, high = (law.base, high) if law.chances(humans).mean() < self.recipe.rate else (low, law.base)
        return replace(self, base=(low + high) / 2)


def draw_law(recipe: Recipe, rng: np.random.Generator) -> Law:
    """Return a law by chance, without its base."""
    topics, segments = recipe.topics, recipe.segments
    early = rng.normal(0.0, recipe.segment_taste, (segments, topics))
    users, ads = _users(recipe, rng), _ads(recipe, rng)
    pairs = len(users.segment), len(ads.topic)
    return Law(
        recipe=recipe,
        users=users,
        ads=ads,
        topic=rng.normal(0.0, recipe.of_topic, topics),
        # After a drift each segment has the taste of the next one.
        segment=np.stack([early, np.roll(early, 1, axis=0)]),
        hour=_daily(rng, topics) * recipe.season,
        weekday=rng.normal(0.0, recipe.season, (7, topics)),
        device=rng.normal(0.0, _DEVICE, len(DEVICES)),
        daytime=_daily(rng, 1)[:, 0] * _HOUR,
        conversion=rng.normal(0.0, _CONVERSION_TASTE, (segments, topics)),
        targeting=rng.normal(0.0, recipe.targeting, pairs) if recipe.targeting else None,
    )


def draw_contexts(rng: np.random.Generator, count: int) -> tuple[Ints, Ints]:
    """Return the second of the day and the device of visits, [count] each; most come in the evening."""
    density = 1.0 + 0.7 * np.sin((np.arange(24) - 14) / 24 * 2 * np.pi)
    hour = rng.choice(24, count, p=density / density.sum())
    second = hour * HOUR_S + rng.integers(HOUR_S, size=count)
    return second, rng.choice(len(DEVICES), count, p=_DEVICE_SHARES)


def _daily(rng: np.random.Generator, topics: int) -> Floats:
    """Return [24, T] curves over the day, smooth, with a standard deviation of about 1."""
    phase, height = rng.uniform(0, 24, topics), rng.normal(0.0, 1.0, topics)
    hours = np.arange(24)[:, None]
    return np.asarray(np.sqrt(2) * height * np.cos((hours - phase) / 24 * 2 * np.pi), np.float64)


def _ads(recipe: Recipe, rng: np.random.Generator) -> Ads:
    first = [np.full(recipe.ads, -np.inf)]
    if recipe.ad_days is not None:
        # The first ones started before the log, so that each day has as many.
        begins = -int(np.ceil(recipe.ad_days))
        first += [START_S + DAY_S * (day + rng.random(recipe.new_ads)) for day in range(begins, recipe.days)]
    starts = np.concatenate(first)
    count = len(starts)
    main = rng.integers(recipe.topics, size=recipe.advertisers)
    advertiser = rng.integers(recipe.advertisers, size=count)
    # Most of an advertiser's ads are of one topic.
    topic = np.where(rng.random(count) < 0.6, main[advertiser], rng.integers(recipe.topics, size=count))
    popularity = -recipe.zipf * np.log1p(np.arange(count)) if recipe.zipf else rng.normal(0.0, 0.5, count)
    ends = starts + DAY_S * recipe.ad_days if recipe.ad_days is not None else np.full(count, np.inf)
    return Ads(topic, advertiser, rng.normal(0.0, recipe.lure, count), popularity, starts, ends)


def _users(recipe: Recipe, rng: np.random.Generator) -> Users:
    """Return the users who come again, then those who come once, then new ones after the log."""
    again = recipe.users
    single = round(again * recipe.once / (1 - recipe.once))
    count = again + 2 * single
    weights = rng.lognormal(0.0, 0.7, again)
    bots = np.arange(count) < round(recipe.bots * again)
    weights[bots[:again]] *= recipe.bot_visits
    visits, later = np.zeros(count), np.zeros(count)
    visits[:again] = weights * (recipe.rows - single) / weights.sum()
    visits[again : again + single] = 1.0
    later[:again], later[again + single :] = visits[:again], 1.0
    later[bots] = 0.0  # what bots click earns nothing
    early = rng.normal(0.0, recipe.user_taste, (count, recipe.topics))
    late = early * (1 - _ERA) + rng.normal(0.0, recipe.user_taste, early.shape) * np.sqrt(1 - (1 - _ERA) ** 2)
    segment, own = rng.integers(recipe.segments, size=count), rng.normal(0.0, recipe.own, count)
    return Users(segment, own, visits / visits.sum(), later / later.sum(), bots, np.stack([early, late]))
