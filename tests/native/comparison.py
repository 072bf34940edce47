"""One request by the native core and by the reference: both come to the same, and whatever the core refuses has words
for its error."""

import math
from collections.abc import Sequence
from random import Random

import numpy as np
import orjson
import pytest

from msd.contract.request import RequestError, check_exploration, check_pricing, parse_request
from msd.contract.rows import Rows as StoredRows
from native import core
from tests.native.live_worlds import LAG_S, LiveWorld
from tests.native.observed import (
    CAPACITY,
    FACTS,
    FILLED,
    KEPT,
    REQUEST_ID,
    UNREAD,
    CoreOfWorld,
    FillResult,
    Made,
    Observed,
    fields_of,
)
from tests.native.worlds import AT
from tests.reference import live as reference_live
from tests.reference.exploration import first_of
from tests.reference.reply import Choice, Scored, corrected, reply_document, segments_of, spread
from tests.reference.request import Request, Seen, read_request
from tests.reference.schema import Schema
from tests.reference.tensors import (
    Rows,
    assemble,
    cut,
    degraded_candidates,
    degraded_user,
    history_of,
    unknown_history,
)


class Pair:
    """The core and the reference over one world."""

    def __init__(self, core: CoreOfWorld) -> None:
        self.core, self.schema = core, Schema(core.world.schema.model_dump(mode="json"))

    def compare(self, random: Random) -> FillResult:
        """Draw a request and compare. Return the core's outcome."""
        observed = self.core.observe(random)
        self.check(observed)
        return observed.outcome

    def check(self, observed: Observed) -> None:
        """Compare what the core makes of a request with what the reference does."""
        body, asked, made = observed.body, observed.asked, observed.made
        assert self._is_refused(body) == (observed.outcome == UNREAD), body
        if asked is None or made is None:
            return
        request = read_request(body, self.schema)
        at = AT if request.at is None else request.at
        ids = list(dict.fromkeys(request.ids))
        history = None if request.history is None else [tuple(seen) for seen in request.history]
        asked_texts = {item: text for item, text in asked.texts.items() if not text.isspace()}
        own = asked.user_id, asked.ids, asked.at, asked.history
        assert (*own, asked_texts) == (request.user_id, ids, request.at, history, request.texts), body
        if observed.outcome == FILLED:
            user, items, stored = self._rows(request, at, observed.live)
            if observed.rows_kept is not None:
                self._check_kept(request, observed.rows_kept, user, items, stored)
            if observed.given is None:
                self._check_facts(request, made, at, user, items, observed.live)
        elif self.core.is_file:
            assert observed.live or (observed.reads_texts and asked.texts), body
        if observed.given is not None:
            user, items, stored = self._given_rows(request, at, observed)
        self._check_made(body, request, made, at, user, items, stored)

    def _is_refused(self, body: bytes) -> bool:
        """Return whether there are words for what is wrong with a body."""
        try:
            request = parse_request(body, self.core.world.schema, CAPACITY)
            check_pricing(request, self.core.formula)
            check_exploration(request, self.core.explore_share)
        except RequestError:
            return True
        return False

    def _rows(self, request: Request, at: float, live: LiveWorld | None) -> tuple[Rows, Rows, list[Seen]]:
        """Return the rows that the core found, with what is live, and the history to use of the user's."""
        of_user = self.core.stored("user", [request.user_id])
        stored = [Seen(*seen) for seen in of_user.histories[0]]
        is_known = live is not None and request.user_id
        packed = live.cached("user", [request.user_id]).packed[0] if live and is_known else None
        state = reference_live.unpack(packed)
        if state is not None and state.as_of > of_user.records["as_of"][0]:
            stored = list(state.history)
        wanted = [*request.ids, *(seen.item_id for seen in history_of(request, stored))]
        of_items = self.core.stored("item", wanted)
        user, items = Rows(of_user.records, of_user.found), Rows(of_items.records, of_items.found)
        if live is not None:
            states = live.cached("item", request.ids).packed
            user, items = self._laid(request, at, user, items, live, [packed], states, None)
        return user, items, stored

    def _given_rows(self, request: Request, at: float, observed: Observed) -> tuple[Rows, Rows, list[Seen]]:
        """Return the rows that the core was given, one per candidate, with what is live."""
        given = observed.given
        assert given is not None, "rows were given"
        ids = list(dict.fromkeys(request.ids))
        firsts = [ids.index(one) for one in request.ids]
        places = [*firsts, *range(len(ids), len(given.items.found))]
        items = _rows_at(given.items, places)
        user = Rows(given.user.records, given.user.found, given.user.stale)
        if given.live is not None:
            of_user = given.live.cached("user", [request.user_id]).packed if request.user_id else [None]
            states = given.live.cached("item", request.ids).packed
            known = given.known and [given.known[0], *(given.known[1 + place] for place in firsts)]
            user, items = self._laid(request, at, user, items, given.live, of_user, states, known)
        return user, items, [Seen(*seen) for seen in given.user.histories[0]]

    def _laid(
        self,
        request: Request,
        at: float,
        user: Rows,
        items: Rows,
        live: LiveWorld,
        of_user: Sequence[bytes | None],
        of_items: Sequence[bytes | None],
        known: list[bool] | None,
    ) -> tuple[Rows, Rows]:
        if live.stream is None:
            return user, items
        stream = reference_live.Stream(*live.stream, LAG_S)
        half_lives = reference_live.half_lives(self.schema)
        horizon = float(max(user.records["as_of"].max(), items.records["as_of"][: len(request.ids)].max()))

        def laid(rows: Rows, side: str, states: Sequence[bytes | None], is_known: list[bool] | None) -> Rows:
            how = half_lives[side], stream, at, horizon
            return rows._replace(records=reference_live.lay_over(rows.records, states, is_known, *how))

        items = laid(items, "item", of_items, known and known[1:])
        return (laid(user, "user", of_user, known and known[:1]) if request.user_id else user), items

    def _check_facts(
        self, request: Request, made: Made, at: float, user: Rows, items: Rows, live: LiveWorld | None
    ) -> None:
        *found, age = fields_of(made.facts, *FACTS) or ()
        is_found = items.found[_firsts_of(request, items)]
        assert tuple(found) == (
            bool(user.found[0]),
            int(is_found.sum()),
            len(is_found) + bool(request.user_id),
            float(user.records["written_at"][0]) if user.found[0] else 0.0,
            float(items.records["written_at"][0]) if items.found[0] else 0.0,
        )
        is_aged = live and live.stream and request.user_id
        expected_age = max(0.0, at - float(user.records["as_of"][0])) if is_aged else math.nan
        assert age == pytest.approx(expected_age, rel=0, abs=0, nan_ok=True)

    def _check_kept(self, request: Request, kept: "core.Kept", user: Rows, items: Rows, stored: list[Seen]) -> None:
        history = [tuple(seen) for seen in history_of(request, stored)]
        firsts = _firsts_of(request, items)
        expected = user.records.tobytes(), items.records[firsts].tobytes(), items.found[firsts].tobytes(), history
        assert fields_of(kept, *KEPT) == expected

    def _check_made(
        self, body: bytes, request: Request, made: Made, at: float, user: Rows, items: Rows, stored: list[Seen]
    ) -> None:
        tensors, count = assemble(self.schema, request, at, user, items, stored), len(request.ids)
        ids = list(dict.fromkeys(request.ids))
        rows = [ids.index(one) for one in request.ids]
        assert made.rows == [*rows, *(len(ids) + place for place in range(len(items.found) - count))], body
        assert made.tensors.keys() == tensors.keys()
        for name, expected in tensors.items():
            assert made.tensors[name].tobytes() == expected.tobytes(), (body, name, made.tensors[name], expected)
        known = [
            seen.item_id for seen, row in zip(history_of(request, stored), items.found[count:], strict=True) if row
        ]
        assert (made.at, made.shown) == (at, known[-self.schema.length :]), body
        self._check_reply(body, request, made, at, user, items)

    def _check_reply(self, body: bytes, request: Request, made: Made, at: float, user: Rows, items: Rows) -> None:
        own, rows = self.core, made.rows[: len(request.ids)]
        degraded, of_user = degraded_candidates(request, items), degraded_user(request, user, items)
        ran = rows.index(made.kept) if made.kept <= max(rows) else len(rows)
        if ran < len(rows):
            missing = own.world.codecs["item"].missing
            for name, expected in cut(self.schema, request, at, user, items, ran, missing).items():
                assert made.cut[name].tobytes() == expected.tobytes(), (body, name)
        if ran < len(rows):
            first = {head: column[[*rows[:ran], made.kept]] for head, column in made.scores.items()}
            scores, degraded = spread(first, request.ids, degraded)
        else:
            scores = {head: column[rows] for head, column in made.scores.items()}
        places = made.places
        if made.correction is not None:
            correction = made.correction.model_dump()
            with np.errstate(all="ignore"):
                scores = corrected(scores, correction, segments_of(request, self.schema, request.slot))
                places = [
                    corrected(one, correction, segments_of(request, self.schema, slot))
                    for slot, one in enumerate(places, start=(request.slot or 0) + 1)
                ]
        if made.reply is None:
            assert not all(np.isfinite(column).all() for one in (scores, *places) for column in one.values()), body
            return
        choice = None
        if request.explore is not None:
            choice = first_of(request.explore, own.explore_share, REQUEST_ID, request, scores, own.formula)
        assert made.choice is None or Choice(*made.choice) == choice, body
        scored = Scored(scores, degraded, of_user, unknown_history(request, items), own.formula, choice, places)
        document = reply_document(REQUEST_ID, "v", request, scored, made.arm)
        assert made.reply == orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), body
        assert (made.user_rung, list(made.rungs.items())) == (of_user, list(degraded.items())), body


def _rows_at(rows: StoredRows, places: list[int]) -> Rows:
    return Rows(rows.records[places], rows.found[places], None if rows.stale is None else rows.stale[places])


def _firsts_of(request: Request, items: Rows) -> list[int]:
    """Return the places of the first candidate with each ID, then those of the history."""
    return [*map(request.ids.index, dict.fromkeys(request.ids)), *range(len(request.ids), len(items.found))]
