"""What a made world is: how many users, ads and impressions it has, and what moves its clicks. Draws nothing."""

from dataclasses import dataclass, replace

from msd.contract.errors import MsdError


class WorldError(MsdError):
    """A world is unknown, or its data is missing or malformed."""


@dataclass(frozen=True)
class Recipe:
    """One law, with log-odds as standard deviations, and the traffic that meets it.

    `rows`: impressions of the log. `rate`: its mean click probability. `own`: between users, `lure`: between ads,
    `of_topic`: between topics; `segment_taste`, `user_taste`: for topics, by segment and by user.

    `by_time`: cut the parts by time, so that the log's last rows are test; otherwise cut each user's, as by default.
    `texts`: name an ad's topic in its text alone. `drift`: share of the time after which other segments have a taste,
    and users a new one. `fatigue`: what each earlier impression of an ad takes from a user's log-odds. `slots`: how
    likely each slot of a page is seen. `targeting`: spread of the (log) frequency of ads between users. `season`:
    taste for topics by hour and by weekday. `once`: share of users who come once. `zipf`: exponent of ads' popularity.
    `ad_days`: how long an ad runs; `new_ads`: how many start each day. `late_days`: mean delay of a conversion.
    `bots`: share of users who click at random, each `bot_visits` times as often as others, with `bot_rate`.
    """

    name: str
    rows: int = 32_000
    days: int = 28
    users: int = 1_500
    segments: int = 4
    ads: int = 168
    topics: int = 5
    advertisers: int = 25
    rate: float = 0.1
    own: float = 0.3
    lure: float = 0.45
    of_topic: float = 0.2
    segment_taste: float = 1.0
    user_taste: float = 0.8
    by_time: bool = True
    texts: bool = False
    drift: float | None = None
    fatigue: float = 0.0
    slots: tuple[float, ...] = (1.0,)
    targeting: float = 0.0
    season: float = 0.0
    once: float = 0.0
    zipf: float = 0.0
    ad_days: float | None = None
    new_ads: int = 0
    late_days: float | None = None
    bots: float = 0.0
    bot_visits: float = 5.0
    bot_rate: float = 0.3

    def smaller(self, rows: int) -> "Recipe":
        """Return the same law with fewer impressions, and users in proportion, for tests."""
        share = rows / self.rows
        return replace(self, rows=rows, users=max(60, round(self.users * share)), new_ads=round(self.new_ads * share))


_PLAIN = Recipe("segments", by_time=False)
RECIPES = {
    recipe.name: recipe
    for recipe in (
        _PLAIN,
        replace(_PLAIN, name="texts", texts=True),
        Recipe("drift", drift=2 / 3),
        Recipe("fatigue", fatigue=0.6, targeting=2.0),
        Recipe("position", slots=(1.0, 0.7, 0.5, 0.35)),
        Recipe("seasons", season=0.7),
        Recipe("tails", users=1_300, ads=2_000, zipf=1.1, once=0.9),
        Recipe("rare", rows=400_000, users=6_000, rate=0.002),
        Recipe("churn", ads=0, new_ads=150, ad_days=3.0),
        Recipe("late", late_days=4.0),
        Recipe("bots", bots=0.02),
    )
}


def recipe_of(name: str) -> Recipe:
    """Return the recipe of a made world. Raises WorldError."""
    if name not in RECIPES:
        raise WorldError(f"there is no made world {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]
