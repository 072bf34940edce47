"""One request by the native core and by `msd.contract`: both must accept the same, and come to the same."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import numpy as np
import orjson
import pytest

import native
from msd.contract.assemble import Tensors, assemble, history_of, wanted_items
from msd.contract.correction import LearnedCorrection
from msd.contract.exploration import exploration_of
from msd.contract.pricing import Formula, formula_of
from msd.contract.request import ANONYMOUS, CheckedRequest, RequestError, check_pricing, parse_request
from msd.contract.rows import Rows, RowSide
from msd.contract.segments import every_segment
from msd.contract.uncertainty import COLUMN, Uncertainty, impressions_of
from native.layout import asked_request, core_model, core_rows, core_schema, given_rows, new_tensors
from service.live.store import PackedStates
from service.telemetry.metrics import Metrics
from tests.native.live_worlds import LAG_S, LiveWorld, draw_live
from tests.native.worlds import AT, EPOCH, SIDES, World, draw_body, draw_correction, draw_given, draw_scores, draw_std
from tests.reference.degradation import cut, degraded_candidates, degraded_user, unknown_history
from tests.reference.exploration import first_of
from tests.reference.live import laid
from tests.reference.reply import Scored, Scores, declared, reply_document, spread

CAPACITY = 40
REQUEST_ID = 'r"\\/\b\f\n\r\t\x01\x1f\x7fé'
FILLED, UNREAD, LACKING = range(3)


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
            core_rows(self._unread[side].memory()) if is_file else self.arenas[side].core() for side in SIDES
        ]
        self.tensors = new_tensors(world.schema, CAPACITY)
        self._heads = random.choice([["pctr"], ["pctr", "pcvr"], ["pctr", "value", "pcvr"]])
        self._formula: Formula = random.choice(
            [formula_of(self._heads), {"cpc": ("pctr",)}, {"cpa": tuple(self._heads)}]
        )
        self._explore_share = random.choice([0.0, 0.5, 1.0, 1.0, 1.0])
        self._uncertainty = random.choice([None, Uncertainty(new=random.uniform(0.01, 10))])
        served = core_model("v", self._formula, self._explore_share, self._uncertainty)
        self.frame = core.Frame(core_schema(world.schema, world.codecs), served, self.tensors, CAPACITY)

    def compare(self, random: Random) -> int:
        """Draws a request and compares. The core's outcome."""
        body = draw_body(random, self.world)
        live = draw_live(random, self.world, self._metrics) if random.random() < 0.3 else None
        epochs, ask = None if self.is_file else (EPOCH, 99), live.ask if live else None
        reads_texts, keeps_rows = random.random() < 0.5, random.random() < 0.5
        outcome = int(
            self.frame.take(body, CAPACITY, *self._sources, AT, epochs, ask, reads_texts, keeps_rows),
        )
        try:
            request = parse_request(body, self.world.schema, CAPACITY)
            check_pricing(request, self._formula)
            if request.explore:
                exploration_of(request.explore, REQUEST_ID, self._explore_share)
        except RequestError:
            assert outcome == UNREAD, body
            return outcome
        assert outcome != UNREAD, body
        if outcome == FILLED:
            user, items = self._rows(request, AT if request.at is None else request.at, live)
            self._compare_facts(body, request, user, items, live)
            if keeps_rows:
                self._compare_kept(request, user, items)
        elif self.is_file:
            assert live or (reads_texts and self.frame.asked[-1]), body
        if outcome == LACKING or random.random() < 0.3:
            asked = self._asked()
            assert asked == _asked_of(request), body
            user, once = draw_given(random, self.world, asked)
            given, over = given_rows(user, once), draw_live(random, self.world, self._metrics)
            known = None if random.random() < 0.5 else [random.random() < 0.8 for _ in range(1 + len(asked.ids))]
            ask = None if random.random() < 0.5 else partial(over.known, known)
            assert self.frame.take(body, CAPACITY, *given, AT, None, ask, reads_texts, False) == FILLED
            places = [*_rows_of(request), *range(len(asked.ids), len(once.found))]
            stale = None if once.stale is None else once.stale[places]
            items = Rows(once.records[places], once.found[places], (), 0, stale)
            if ask is not None:
                of_user, of_items = over.states(known, asked.user_id or None, asked.ids)
                firsts = [asked.ids.index(one) for one in request.ids]
                mask = None if of_items.known is None else of_items.known[firsts]
                of_items = PackedStates([of_items.packed[place] for place in firsts], of_items.stream, mask)
                at = AT if request.at is None else request.at
                user, items = laid(self.world.schema, user, items, of_user, of_items, at, LAG_S)
        self._compare_filled(random, body, request, user, items)
        return outcome

    def _asked(self) -> CheckedRequest:
        """What the core says that rows and vectors are needed for."""
        return asked_request(self.frame.asked)

    def _compare_facts(
        self, body: bytes, request: CheckedRequest, user: Rows, items: Rows, live: LiveWorld | None
    ) -> None:
        assert self._asked() == _asked_of(request), body
        assert self.frame.count == len(request.ids)
        *found, age = self.frame.found
        is_found = items.found[_firsts_of(request, items)]
        assert tuple(found) == (
            bool(user.found[0]),
            int(is_found.sum()),
            len(is_found) + bool(request.user_id),
            float(user.records["written_at"][0]) if user.found[0] else 0.0,
            float(items.records["written_at"][0]) if items.found[0] else 0.0,
        ), body
        at = AT if request.at is None else request.at
        is_aged = live and live.stream and request.user_id
        expected_age = max(0.0, at - float(user.records["as_of"][0])) if is_aged else math.nan
        assert age == pytest.approx(expected_age, rel=0, abs=0, nan_ok=True)

    def _compare_kept(self, request: CheckedRequest, user: Rows, items: Rows) -> None:
        history = [tuple(seen) for seen in history_of(request, user)]
        firsts = _firsts_of(request, items)
        expected = user.records.tobytes(), items.records[firsts].tobytes(), items.found[firsts].tobytes(), history
        assert self.frame.kept == expected

    def _compare_filled(self, random: Random, body: bytes, request: CheckedRequest, user: Rows, items: Rows) -> None:
        at = AT if request.at is None else request.at
        tensors = assemble(self.world.schema, request, at, user, items)
        rows, count = _rows_of(request), len(request.ids)
        assert self.frame.rows == [*rows, *(max(rows) + 1 + n for n in range(len(items.found) - count))], body
        for name, expected in tensors.items():
            found = self.tensors[name][rows] if name.startswith("item_") else self.tensors[name]
            assert found.tobytes() == expected.tobytes(), (body, name, found, expected)
        assert self.frame.at == at
        is_found = items.found.tolist()
        shown = [one for one, known in zip(wanted_items(request, user), is_found, strict=True) if known]
        known = sum(is_found[count:])
        assert self.frame.shown == shown[len(shown) - known :][-self.world.schema.history.length :]
        self._compare_replies(random, body, request, tensors, at, user, items)

    def _corrected(
        self, request: CheckedRequest, correction: LearnedCorrection, places: Sequence[Scores]
    ) -> list[Scores]:
        """Return the scores for the places of a page behind its first."""
        found = []
        for slot, scores in enumerate(places, start=(request.slot or 0) + 1):
            segments = every_segment(replace(request, slot=slot), self.world.schema)
            found.append(dict(correction.within(segments).correct(scores)))
        return found

    def _rows(self, request: CheckedRequest, at: float, live: LiveWorld | None) -> tuple[Rows, Rows]:
        """As `LiveRows` fetches them, with what is live."""
        if live is None:
            user = self._stored("user", [request.user_id])
            return user, self._stored("item", wanted_items(request, user))

        async def stored(side: RowSide, ids: Sequence[str]) -> Rows:
            return self._stored(side, list(ids))

        # Nothing here is waited for.
        with pytest.raises(StopIteration) as end:
            live.rows.fetch(self.world.schema, request, stored).send(None)
        user, items, _ = end.value.value
        states = live.states(None, request.user_id or None, request.ids)
        return laid(self.world.schema, user, items, *states, at, LAG_S)

    def _stored(self, side: RowSide, ids: list[str]) -> Rows:
        if ids == [ANONYMOUS]:
            return self.world.codecs[side].unpack([None])
        if self.is_file:
            return self.files[side].get(ids)
        held = self.arenas[side].look_up(ids)
        assert (held.epochs == EPOCH).all(), "the core may fill only from what is sure"
        assert (held.places >= 0).all(), "the core may fill only from what is held"
        return self.arenas[side].rows(held.places)

    def _compare_deviations(self, random: Random, count: int) -> None:
        if self.world.schema.state("item") is None:
            return
        scores, found = draw_std(random, count).clip(0, 1), None
        if self._uncertainty is not None:
            tensors = {**self.tensors, "item_dense": self.tensors["item_dense"][:count]}
            found = self._uncertainty.logit_std(impressions_of(self.world.schema, tensors), scores).tobytes()
        assert self.frame.deviate(scores) == found

    def _compare_replies(
        self,
        random: Random,
        body: bytes,
        request: CheckedRequest,
        tensors: Tensors,
        at: float,
        user: Rows,
        items: Rows,
    ) -> None:
        count = ran = len(request.ids)
        rows = _rows_of(request)
        size = kept = max(rows) + 1
        degraded, of_user = degraded_candidates(request, items), degraded_user(request, user, items)
        if random.random() < 0.3:
            kept = random.randrange(size)
            ran = rows.index(kept)
            self.frame.cut(kept)
            places, codec = [*rows[:ran], kept], self.world.codecs["item"]
            for name, expected in cut(self.world.schema, tensors, ran, codec, request, at, user).items():
                found = self.tensors[name][places] if name.startswith("item_") else self.tensors[name]
                assert found.tobytes() == expected.tobytes(), (body, name)
            size = kept + 1
        self._compare_deviations(random, size)
        found_scores = {head: draw_scores(random, size) for head in self._heads}
        if request.explore:  # has logarithms of scores, which are probabilities then
            found_scores = {head: column.clip(0, 1) for head, column in found_scores.items()}
        if request.explore and random.random() < 0.9:
            found_scores[COLUMN] = draw_std(random, size)
        correction = draw_correction(random, self.world.schema) if random.random() < 0.3 else None
        arm = random.choice([None, "b"])
        lines = [] if correction is None else correction.lines_for(self.world.schema)
        scores = {head: column[[*rows[:ran], *[kept] * (ran < count)]] for head, column in found_scores.items()}
        if ran < count:
            scores, degraded = spread(scores, request.ids), declared(scores, request.ids, degraded)
        if correction is not None:
            with np.errstate(all="ignore"):
                scores = correction.within(every_segment(request, self.world.schema)).correct(scores)
        alone: list[Scores] = [_one_of(random, found_scores) for _ in range(1, request.page or 1)]
        before = {name: column.copy() for name, column in self.tensors.items()}
        try:
            reply = self.frame.reply(REQUEST_ID, arm, found_scores, kept, lines, alone)
        except ValueError:
            assert not all(np.isfinite(column).all() for one in (scores, *alone) for column in one.values()), body
            return
        assert all(self.tensors[name].tobytes() == column.tobytes() for name, column in before.items()), body
        if correction is not None:
            alone = self._corrected(request, correction, alone)
        choice = None
        if request.explore is not None:
            asked = exploration_of(request.explore, REQUEST_ID, self._explore_share)
            choice = first_of(asked, request, scores, self._formula)
        assert self.frame.choice == choice, body
        scored = Scored(scores, degraded, of_user, unknown_history(request, items), self._formula, choice, alone)
        document = reply_document(REQUEST_ID, "v", request, scored, arm)
        assert reply == orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), body
        assert self.frame.user_rung == of_user, body
        assert list(self.frame.rungs.items()) == list(degraded.items()), body


def _asked_of(request: CheckedRequest) -> CheckedRequest:
    texts = request.item_texts
    ids = list(dict.fromkeys(request.ids))
    return CheckedRequest(request.user_id, ids, request.at, history=request.history, item_texts=texts)


def _one_of(random: Random, scores: Scores) -> Scores:
    """Return what a run of one candidate gives."""
    return {head: draw_std(random, 1) if head == COLUMN else draw_scores(random, 1).clip(0, 1) for head in scores}


def _rows_of(request: CheckedRequest) -> list[int]:
    """Return each candidate's row: one ID has one."""
    rows = {one: row for row, one in enumerate(dict.fromkeys(request.ids))}
    return [rows[one] for one in request.ids]


def _firsts_of(request: CheckedRequest, items: Rows) -> list[int]:
    """Return the places of the first candidate with each ID, then those of the history."""
    return [*map(request.ids.index, dict.fromkeys(request.ids)), *range(len(request.ids), len(items.found))]
