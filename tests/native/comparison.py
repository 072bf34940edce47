"""One request by the native core and by `msd.contract`: both must come to the same, or the core must leave it to
Python."""

import math
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pytest

import native
from msd.contract.assemble import Assembled, assemble, wanted_items
from msd.contract.request import CheckedRequest, RequestError, parse_request
from msd.contract.rows import Rows, RowSide
from native.layout import core_rows, core_schema, new_tensors
from service.scoring.answer import Basis, Scored
from service.scoring.reply import build_reply
from service.telemetry.metrics import Metrics
from tests.native.live_worlds import LiveWorld, draw_live
from tests.native.worlds import AT, EPOCH, SIDES, World, draw_body, draw_scores

CAPACITY = 40
FILLED, UNREAD, UNHELD, UNUSUAL = range(4)


class Pair:
    """The core and Python over one world, on files or on arenas."""

    def __init__(self, world: World, random: Random, is_file: bool) -> None:
        core = native.core
        assert core is not None, "it is compared where it is built"
        self.world, self.is_file = world, is_file
        self._metrics = Metrics()
        self.files = world.files()
        self.arenas = world.arenas(random)
        # Read for the first time, so that the core proves blocks itself.
        self._unread = world.files()
        self._sources: list[Any] = [
            core_rows(self._unread[side]) if is_file else self.arenas[side].core() for side in SIDES
        ]
        self.tensors = new_tensors(world.schema, CAPACITY)
        self.frame = core.Frame(core_schema(world.schema, world.codecs), self.tensors, CAPACITY)

    def compare(self, random: Random) -> int:
        """Draws a request and compares. The core's outcome."""
        body = draw_body(random, self.world)
        live = draw_live(random, self.world, self._metrics) if random.random() < 0.3 else None
        epochs, ask = None if self.is_file else (EPOCH, 99), live.ask if live else None
        outcome = int(self.frame.take(body, CAPACITY, *self._sources, AT, epochs, ask))
        try:
            request = parse_request(body, self.world.schema, CAPACITY)
        except RequestError:
            assert outcome != FILLED, body
            return outcome
        if outcome != FILLED:
            return outcome
        at = AT if request.at is None else request.at
        user, items = self._rows(request, at, live)
        assembled = assemble(self.world.schema, request, at, user, items)
        for name, expected in assembled.tensors.items():
            found = self.tensors[name][: len(expected)]
            assert found.tobytes() == expected.tobytes(), (body, name, found, expected)
        missing = len(assembled.degraded_candidates)
        assert self.frame.user_id == request.user_id
        assert self.frame.count == len(request.ids)
        *found, age = self.frame.found
        assert tuple(found) == (
            bool(user.found[0]),
            missing,
            int(items.found.sum()),
            len(items.found),
            float(user.records["written_at"][0]) if user.found[0] else 0.0,
            float(items.records["written_at"][0]) if items.found[0] else 0.0,
        ), body
        expected_age = max(0.0, at - float(user.records["as_of"][0])) if live and live.stream else math.nan
        assert age == pytest.approx(expected_age, rel=0, abs=0, nan_ok=True)
        self._compare_replies(random, body, request, assembled, Basis(at, user, items, len(request.ids), False))
        return outcome

    def _rows(self, request: CheckedRequest, at: float, live: LiveWorld | None) -> tuple[Rows, Rows]:
        """As `LiveRows` fetches them."""
        if live is None:
            user = self._stored("user", [request.user_id])
            return user, self._stored("item", wanted_items(request, user))

        async def stored(side: RowSide, ids: Sequence[str]) -> Rows:
            return self._stored(side, list(ids))

        # Nothing here is waited for.
        with pytest.raises(StopIteration) as end:
            live.rows.fetch(self.world.schema, request, at, stored).send(None)
        rows: tuple[Rows, Rows] = end.value.value
        return rows

    def _stored(self, side: RowSide, ids: list[str]) -> Rows:
        if self.is_file:
            return self.files[side].get(ids)
        held = self.arenas[side].look_up(ids)
        assert (held.epochs == EPOCH).all(), "the core may fill only from what is sure"
        assert (held.places >= 0).all(), "the core may fill only from what is held"
        return self.arenas[side].rows(held.places)

    def _compare_replies(
        self, random: Random, body: bytes, request: CheckedRequest, assembled: Assembled, basis: Basis
    ) -> None:
        heads = random.choice([["pctr"], ["pctr", "pcvr"]])
        scores = {head: draw_scores(random, len(request.ids)) for head in heads}
        scored = Scored(scores, assembled.degraded_candidates, assembled.degraded_user, basis)
        try:
            found = self.frame.reply(b'{"request_id":"r","model_version":"v","candidates":', scores)
        except ValueError:
            assert not all(np.isfinite(column.sum(dtype=np.float64)) for column in scores.values()), body
            return
        if found is None:
            assert any((np.abs(column) >= 1e7).any() for column in scores.values()) or request.bids, body
            return
        assert found == build_reply("r", "v", request, scored), body
