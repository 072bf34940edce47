"""Fetches a request's rows together with what is live of them; a store of states that fails leaves rows as they are.

Knows when what is asked for; what becomes of it is `overlay`'s to say.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence

import structlog

from msd.contract.assemble import wanted_items
from msd.contract.request import CheckedRequest
from msd.contract.rows import Rows, RowSide
from msd.contract.schema import FeatureSchema
from service.live.errors import LiveError
from service.live.overlay import Moment, Overlay, state_rules
from service.live.store import LiveStore, States
from service.live.stream import Stream
from service.telemetry.metrics import Metrics

FetchRows = Callable[[RowSide, Sequence[str]], Awaitable[Rows]]


class LiveRows:
    """The rows of requests with live states laid over them."""

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
        """The user's row [1], and those of `wanted_items` by the live history, as known at `at` (unix s).

        `deadline`: of `time.perf_counter`, for states; `fetch` knows its own.
        """
        overlay = Overlay(schema, self._lag_s)
        user, of_user = await self._both("user", [request.user_id], 1, fetch, deadline)
        user = overlay.history(user, of_user)
        count = len(request.ids)
        items, of_items = await self._both("item", wanted_items(request, user), count, fetch, deadline)
        stream = of_items.stream
        if stream is None:
            return user, items
        moment = Moment(at, stream, _horizon(user, items, count))
        rules = state_rules(schema)
        user = overlay.counts(user, of_user, rules["user"].half_life_s, moment)
        items = overlay.counts(items, of_items, rules["item"].half_life_s, moment)
        self._tell(user, at, stream)
        return user, items

    def at_hand(self, schema: FeatureSchema, user_id: str, ids: Sequence[str]) -> tuple[object, ...] | None:
        """What is live of a user and of candidates, for the native core, in any thread; None where that would have to
        be waited for."""
        user, items = self._store.at_hand("user", [user_id]), self._store.at_hand("item", ids)
        if user is None or items is None:
            return None
        if items.stream is not None:
            self._metrics.newest_event.set(items.stream.until)
        rules = state_rules(schema)
        half_lives = rules["user"].half_life_s, rules["item"].half_life_s
        return user.packed[0], items.packed, items.stream, self._lag_s, *half_lives

    def tell(self, age_s: float) -> None:
        """How long ago what is live of a user ends."""
        self._metrics.live_ages.observe(age_s)

    async def _both(
        self, side: RowSide, ids: Sequence[str], count: int, fetch: FetchRows, deadline: float | None
    ) -> tuple[Rows, States]:
        """Rows of ids and states of the first `count` of them, asked for at once where there is a wait."""
        if self._store.is_local:
            return await fetch(side, ids), await self._states(side, ids[:count], deadline)
        rows, states = await asyncio.gather(fetch(side, ids), self._states(side, ids[:count], deadline))
        return rows, states

    async def _states(self, side: RowSide, ids: Sequence[str], deadline: float | None) -> States:
        try:
            return await self._store.get(side, ids, deadline)
        except LiveError as error:
            self._metrics.live_errors.inc()
            self._log.warning("live_error", error=str(error))
            return States([None] * len(ids), None)

    def _tell(self, user: Rows, at: float, stream: Stream) -> None:
        self._metrics.live_ages.observe(max(0.0, at - float(user.records["as_of"][0])))
        self._metrics.newest_event.set(stream.until or math.nan)


def _horizon(user: Rows, items: Rows, count: int) -> float:
    """Up to when the rows of this export are complete: as far as the latest of them says. A user's row alone does not
    tell: it ends with that user's last event."""
    return float(max(user.records["as_of"].max(), items.records["as_of"][:count].max(initial=0.0)))
