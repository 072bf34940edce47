"""A made-up night whose users, ads and clicks are those of a made world: tastes of users, hours and devices."""

from functools import cache

import numpy as np

from lab.nights.made_night import BOTS, CANDIDATES, Floats, MadeNight, Requests
from lab.worlds.law import Impressions, draw_contexts
from lab.worlds.made import MadeWorld, make_world
from lab.worlds.recipe import recipe_of

WORLDS = ("segments", "seasons", "position", "late", "drift", "bots")
"""Worlds with as many ads as a night's tables can hold."""


@cache
def _world(name: str, seed: int) -> MadeWorld:
    return make_world(recipe_of(name), seed)


class WorldNight(MadeNight):
    """One night of a kind in a world. Models know the law but for users' own log-odds and tastes; their tables are what
    they err by."""

    def __init__(self, kind: str, seed: int, share: float | None = None, world: str = "segments") -> None:
        self.law_of_world = _world(world, seed).law
        self.segments, self.items = self.law_of_world.recipe.segments, len(self.law_of_world.ads.topic)
        self.users = len(self.law_of_world.users.segment)
        super().__init__(kind, seed, share)

    def _draw(self, seed: int) -> tuple[Floats, Floats]:
        law = self.law_of_world
        popularity = np.cumsum(np.exp(law.ads.popularity))
        self._popularity, self._visits = popularity / popularity[-1], np.cumsum(law.users.later_visits)
        self._segment = np.append(law.users.segment, self.rng.integers(self.segments, size=BOTS))
        # After a drift, each segment has the taste of the next one.
        return np.zeros((self.segments, self.items)), (law.segment[1] - law.segment[0])[:, law.ads.topic]

    def requests(self, count: int) -> Requests:
        """Draw requests of the day after the world's log."""
        rng, law = self.rng, self.law_of_world
        user, is_bot = self._visitors(np.searchsorted(self._visits, rng.random(count)).clip(max=self.users - 1))
        items = np.searchsorted(self._popularity, rng.random((count, CANDIDATES)))
        second, device = draw_contexts(rng, count)
        # Bots are drawn as the first users are.
        place = np.repeat(np.where(is_bot, 0, user), CANDIDATES)
        at, nothing = np.full(count, law.ends_at) + second, np.zeros(count * CANDIDATES, np.int64)
        one_each = (np.repeat(at, CANDIDATES), place, items.ravel(), np.repeat(device, CANDIDATES), nothing, nothing)
        era = int(law.recipe.drift is not None)
        unknown = law.users.own[place] + law.users.taste[era, place, law.ads.topic[items.ravel()]]
        known = law.odds(Impressions(*one_each)) - unknown
        return Requests(
            user, self._segment[user], items, known.reshape(items.shape), unknown.reshape(items.shape), is_bot
        )
