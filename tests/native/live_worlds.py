"""Live states drawn at random, as a store would hold them, usable and not."""

from collections.abc import Callable, Sequence
from random import Random

import numpy as np

from msd.contract.rows import RowSide
from msd.contract.state import EntityState
from service.live.live_state import LiveState, pack_state
from service.live.overlay import LiveRows
from service.live.store import BatchOutcome, LiveBatch, PackedStates, Stream
from service.telemetry.metrics import Metrics
from tests.native.worlds import AT, SIDES, World, draw_history, mutated, strangers

Ask = Callable[[str | None, Sequence[str]], "tuple[object, ...] | None"]
LAG_S = 900.0


class LiveWorld:
    """A store of live states that holds what was drawn."""

    is_local = True

    def __init__(
        self, world: World, metrics: Metrics, states: dict[tuple[RowSide, str], bytes], stream: Stream | None
    ) -> None:
        self._world, self._states, self.stream = world, states, stream
        self.rows = LiveRows(self, metrics, LAG_S)

    def ask(self, user_id: str | None, ids: Sequence[str]) -> tuple[object, ...] | None:
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

    def known(self, known: Sequence[bool] | None, user_id: str | None, ids: Sequence[str]) -> tuple[object, ...]:
        """The same for the core."""
        of_user, of_items = self.states(known, user_id, ids)
        return self.rows._for_core(self._world.schema, of_user or PackedStates([None], None), of_items)

    def cached(self, side: RowSide, ids: Sequence[str]) -> PackedStates:
        return PackedStates([self._states.get((side, id_)) for id_ in ids], self.stream)

    async def get(self, side: RowSide, ids: Sequence[str], deadline: float | None = None) -> PackedStates:
        return self.cached(side, ids)

    async def add(self, batch: LiveBatch) -> BatchOutcome:
        raise NotImplementedError

    async def close(self) -> None:
        pass


def draw_live(random: Random, world: World, metrics: Metrics) -> LiveWorld:
    """States of some ids, and how far the stream of events reaches."""
    states = {
        (side, one): _state(random, world.ids["item"])
        for side in SIDES
        for one in (*world.ids[side], *strangers())
        if random.random() < 0.5
    }
    since = AT - random.choice([0.0, 60.0, 86_400.0, 1e6])
    until = random.choice([since, AT - 10_000.0, AT - LAG_S, AT - 1.0, AT, AT + 30.0])
    return LiveWorld(world, metrics, states, Stream(since, until) if random.random() < 0.9 else None)


def _state(random: Random, items: Sequence[str]) -> bytes:
    impressions = random.choice([0.0, 1.0, 17.25, 1e6, 3.3333])
    as_of = AT + random.choice([-1e9, -86_400.0, -60.5, 0.0, 60.0, 1e5])
    state = EntityState(impressions, impressions * random.random(), as_of, tuple(draw_history(random, items)))
    packed = pack_state(LiveState(state, as_of - random.random()))
    return packed if random.random() < 0.9 else mutated(random, packed)
