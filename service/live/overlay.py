"""Live states of requests, for the core, which lays them over rows: current counts, their age, and the history, in
place of the exported ones.

What was used are rows like any others, so logging and replay do not know about live states. If the state store fails,
rows stay as they are.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import structlog

from msd.contract.request import ANONYMOUS
from msd.contract.rows import Rows, RowSide
from msd.contract.schema import FeatureSchema
from msd.contract.state import Impression, state_rules
from native import core
from native.layout import AskedRequest
from native.live_state import unpack_state
from service.live.store import LiveError, LiveStore, PackedStates
from service.telemetry.metrics import Metrics

FetchRows = Callable[[RowSide, Sequence[str]], Awaitable[Rows]]


def with_history(user: Rows, live: "core.LiveState | None") -> Rows:
    """Return the user's row [1] with the live history, if it is newer than the row's."""
    if live is None or live.as_of <= user.records["as_of"][0]:
        return user
    return user._replace(histories=(tuple(Impression(*seen) for seen in live.history),))


class LiveRows:
    """Rows of requests, and the live states to lay over them."""

    def __init__(self, store: LiveStore, metrics: Metrics, lag_s: float) -> None:
        self._store = store
        self._metrics = metrics
        self._lag_s = lag_s
        self._log = structlog.get_logger("msd.live")

    async def fetch(
        self,
        schema: FeatureSchema,
        request: AskedRequest,
        fetch: FetchRows,
        deadline: float | None = None,
    ) -> "tuple[Rows, Rows, core.LiveStates | None]":
        """Return the user's row [1] with the history to use, the rows that the request wants by that, and the
        states of both; None if none is known.

        `deadline`, of `time.perf_counter`, is for states; `fetch` has its own.
        """
        of_user = PackedStates([None], None)
        if request.user_id == ANONYMOUS:
            user = await fetch("user", [ANONYMOUS])
        else:
            user, of_user = await self._both("user", [request.user_id], 1, fetch, deadline)
            live = unpack_state(of_user.packed[0])
            self._metrics.damaged_states.inc(live is None and of_user.packed[0] is not None)
            user = with_history(user, live)
        wanted, count = request.wanted(user), len(request.ids)
        items, of_items = await self._both("item", wanted, count, fetch, deadline)
        return user, items, None if of_items.stream is None else self._for_core(schema, of_user, of_items)

    def cached(self, schema: FeatureSchema, user_id: str | None, ids: Sequence[str]) -> "core.LiveStates | None":
        """Return the states of a user, None if it is anonymous, and of candidates; None if that would wait. For any
        thread."""
        user = PackedStates([None], None) if user_id is None else self._store.cached("user", [user_id])
        items = self._store.cached("item", ids)
        return None if user is None or items is None else self._for_core(schema, user, items)

    def _for_core(self, schema: FeatureSchema, user: PackedStates, items: PackedStates) -> "core.LiveStates":
        if items.stream is not None:
            self._metrics.newest_event.set(items.stream.until or math.nan)
        rules, unknown = state_rules(schema), None
        if user.known is not None or items.known is not None:
            known = [np.ones(len(one.packed), bool) if one.known is None else one.known for one in (user, items)]
            unknown = (~np.concatenate(known)).tobytes()
        return core.LiveStates(
            user=user.packed[0],
            items=items.packed,
            stream=items.stream,
            lag_s=self._lag_s,
            user_half_life_s=rules["user"].half_life_s,
            item_half_life_s=rules["item"].half_life_s,
            unknown=unknown,
        )

    async def _both(
        self, side: RowSide, ids: Sequence[str], count: int, fetch: FetchRows, deadline: float | None
    ) -> tuple[Rows, PackedStates]:
        """Return rows of ids, and states of the first `count` of them, fetched concurrently if either waits."""
        if self._store.is_local:
            return await fetch(side, ids), await self._states(side, ids[:count], deadline)
        rows, states = await asyncio.gather(fetch(side, ids), self._states(side, ids[:count], deadline))
        return rows, states

    async def _states(self, side: RowSide, ids: Sequence[str], deadline: float | None) -> PackedStates:
        try:
            return await self._store.get(side, ids, deadline)
        except LiveError as error:
            self._metrics.live_errors.inc()
            self._log.warning("live_error", error=str(error))
            return PackedStates([None] * len(ids), None)
