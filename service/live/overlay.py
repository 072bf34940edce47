"""Lays live states over rows: current counts, their age, and the history, in place of the exported ones.

The result is rows like any others, so scoring, logging and replay do not know about live states. If the state store
fails, rows stay as they are.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import numpy as np
import structlog

from msd.contract.assemble import wanted_items
from msd.contract.request import ANONYMOUS, CheckedRequest
from msd.contract.rows import Rows, RowSide
from msd.contract.schema import FeatureSchema
from msd.contract.state import decay, state_rules
from service.live.live_state import LiveState, unpack_counts, unpack_state
from service.live.store import LiveError, LiveStore, PackedStates, Stream
from service.telemetry.metrics import Metrics

FetchRows = Callable[[RowSide, Sequence[str]], Awaitable[Rows]]


class AsOf(NamedTuple):
    """The query: time (Unix s), end of the stream, time up to which the rows are complete, and the longest gap in the
    stream that counts as "nothing happened"."""

    at: float
    stream: Stream
    horizon: float
    lag_s: float


def with_history(user: Rows, live: LiveState | None) -> Rows:
    """Return the user's row [1] with the live history, if it is newer than the row's."""
    if live is None or live.state.as_of <= user.records["as_of"][0]:
        return user
    return user._replace(histories=(live.state.history,))


def with_counts(rows: Rows, states: PackedStates, half_life_s: float, moment: AsOf) -> Rows:
    """Return rows [n] with live counts in the first ones, one per state.

    While the stream flows, counts decay to the requested time and are complete up to it; otherwise up to the stream's
    last event. A row's age is extended only if it is known to have no live state, and the stream followed it without a
    gap.
    """
    live = unpack_counts(states.packed)
    records = rows.records.copy()
    own = records[: len(live.found)]
    is_newer = live.found & (live.as_of > own["as_of"])
    as_of = np.where(is_newer, live.as_of, own["as_of"])
    reached = moment.stream.complete_at(moment.at, moment.lag_s)
    is_followed = np.full(len(own), moment.stream.covers(moment.horizon, moment.lag_s))
    if states.known is not None:
        is_followed &= states.known
    is_followed |= is_newer
    complete = np.where(is_followed, np.maximum(as_of, reached), as_of)
    fade = decay(complete - as_of, half_life_s)
    for name, column in (("impressions", live.impressions), ("clicks", live.clicks)):
        own[name] = np.where(is_newer, column, own[name]) * fade
    own["as_of"] = complete
    return rows._replace(records=records)


class LiveRows:
    """Rows of requests, with live states laid over them."""

    def __init__(self, store: LiveStore, metrics: Metrics, lag_s: float) -> None:
        self._store = store
        self._metrics = metrics
        self._lag_s = lag_s
        self._log = structlog.get_logger("msd.live")

    async def fetch(
        self,
        schema: FeatureSchema,
        request: CheckedRequest,
        at: float,
        fetch: FetchRows,
        deadline: float | None = None,
    ) -> tuple[Rows, Rows]:
        """Return the user's row [1], and those of `wanted_items` by the live history, as of `at` (Unix s).

        `deadline`, of `time.perf_counter`, is for states; `fetch` has its own.
        """
        if request.user_id == ANONYMOUS:
            user, of_user = await fetch("user", [ANONYMOUS]), None
        else:
            user, of_user = await self._both("user", [request.user_id], 1, fetch, deadline)
            live = unpack_state(of_user.packed[0])
            self._metrics.damaged_states.inc(live is None and of_user.packed[0] is not None)
            user = with_history(user, live)
        count = len(request.ids)
        items, of_items = await self._both("item", wanted_items(request, user), count, fetch, deadline)
        stream = of_items.stream
        if stream is None:
            return user, items
        # An export's rows are complete up to the latest of them; a user's alone ends with that user's last event.
        horizon = float(max(user.records["as_of"].max(), items.records["as_of"][:count].max(initial=0.0)))
        moment = AsOf(at, stream, horizon, self._lag_s)
        rules = state_rules(schema)
        if of_user is not None:
            user = with_counts(user, of_user, rules["user"].half_life_s, moment)
            self._metrics.live_ages.observe(max(0.0, at - float(user.records["as_of"][0])))
        items = with_counts(items, of_items, rules["item"].half_life_s, moment)
        self._tell_newest(stream)
        return user, items

    def cached(self, schema: FeatureSchema, user_id: str | None, ids: Sequence[str]) -> tuple[object, ...] | None:
        """Return the states of a user, None if it is anonymous, and of candidates, for the native core; None if that
        would wait. For any thread."""
        user = PackedStates([None], None) if user_id is None else self._store.cached("user", [user_id])
        items = self._store.cached("item", ids)
        if user is None or items is None:
            return None
        if items.stream is not None:
            self._tell_newest(items.stream)
        rules = state_rules(schema)
        half_lives = rules["user"].half_life_s, rules["item"].half_life_s
        return user.packed[0], items.packed, items.stream, self._lag_s, *half_lives

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

    def _tell_newest(self, stream: Stream) -> None:
        self._metrics.newest_event.set(stream.until or math.nan)
