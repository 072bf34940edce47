"""Live states drawn at random, as a store would hold them, usable and not."""

from collections.abc import Callable, Sequence
from random import Random

import numpy as np

from msd.contract.rows import RowSide
from native import core
from service.live.overlay import LiveRows
from service.live.store import BatchOutcome, LiveBatch, PackedStates, Stream
from service.telemetry.metrics import Metrics
from tests.native.worlds import AT, World, draw_history, mutated, strangers
from tests.reference.live import State, pack
from tests.reference.request import Seen

Ask = Callable[[str | None, Sequence[str]], "core.LiveStates | None"]
LAG_S = 900.0


class LiveWorld:
    """A store of live states that holds what was drawn."""

    is_local = True

    def __init__(self, world: World, metrics: Metrics, seed: int, stream: Stream | None) -> None:
        self._world, self._seed, self.stream = world, seed, stream
        self._states: dict[tuple[RowSide, str], bytes | None] = {}
        self.rows = LiveRows(self, metrics, LAG_S)

    def ask(self, user_id: str | None, ids: Sequence[str]) -> "core.LiveStates | None":
        """What the core asks for."""
        return self.rows.cached(self._world.schema, user_id, ids)

    def states(
        self, known: Sequence[bool] | None, user_id: str | None, ids: Sequence[str]
    ) -> tuple[PackedStates | None, PackedStates]:
        """The states of a user, unless it is anonymous, and of items. `known`: whether each may be there."""
        of_user, of_items = None if user_id is None else self.cached("user", [user_id]), self.cached("item", ids)
        if known is not None:
            of_items = of_items._replace(known=np.array(known[1:]))
            of_user = of_user and of_user._replace(known=np.array(known[:1]))
        return of_user, of_items

    def known(self, known: Sequence[bool] | None, user_id: str | None, ids: Sequence[str]) -> "core.LiveStates":
        """The same for the core."""
        of_user, of_items = self.states(known, user_id, ids)
        return self.rows._for_core(self._world.schema, of_user or PackedStates([None], None), of_items)

    def cached(self, side: RowSide, ids: Sequence[str]) -> PackedStates:
        return PackedStates([self._state(side, one) for one in ids], self.stream)

    async def get(self, side: RowSide, ids: Sequence[str], deadline: float | None = None) -> PackedStates:
        return self.cached(side, ids)

    async def add(self, batch: LiveBatch) -> BatchOutcome:
        raise NotImplementedError

    async def close(self) -> None:
        pass

    def _state(self, side: RowSide, one: str) -> bytes | None:
        """Return the state of an ID that is known, drawn when it is first asked for."""
        if (side, one) not in self._states:
            random = Random(f"{self._seed} {side} {one}")
            is_there = one in (*self._world.ids[side], *strangers()) and random.random() < 0.5
            self._states[side, one] = draw_state(random, self._world.ids["item"]) if is_there else None
        return self._states[side, one]


def draw_live(random: Random, world: World, metrics: Metrics) -> LiveWorld:
    """States of some ids, and how far the stream of events reaches."""
    since = AT - random.choice([0.0, 60.0, 86_400.0, 1e6])
    until = random.choice([since, AT - 10_000.0, AT - LAG_S, AT - 1.0, AT, AT + 30.0])
    seed, stream = random.getrandbits(64), Stream(since, until) if random.random() < 0.9 else None
    return LiveWorld(world, metrics, seed, stream)


def draw_state(random: Random, items: Sequence[str]) -> bytes:
    impressions = random.choice([0.0, 1.0, 17.25, 1e6, 3.3333])
    as_of = AT + random.choice([-1e9, -86_400.0, -60.5, 0.0, 60.0, 1e5])
    history = tuple(Seen(*seen) for seen in draw_history(random, items))
    packed = pack(State(impressions, impressions * random.random(), as_of, history, as_of - random.random()))
    return packed if random.random() < 0.9 else mutated(random, packed)
