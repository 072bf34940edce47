"""Requests drawn at random, and all that the native core makes of each: what the reference is compared with, and what
the corpus keeps a digest of."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import blake2b
from random import Random
from typing import Any, NamedTuple

import numpy as np

import native
from msd.contract.correction import LearnedCorrection
from msd.contract.exploration import Choice
from msd.contract.pricing import Formula, formula_of
from msd.contract.request import ANONYMOUS
from msd.contract.rows import Rows, RowSide
from msd.contract.tensors import Tensors
from msd.contract.uncertainty import Uncertainty
from native.layout import (
    AskedRequest,
    choice_of,
    core_corrections,
    core_model,
    core_rows,
    core_schema,
    fetched_rows,
    new_tensors,
)
from service.telemetry.metrics import Metrics
from tests.native.live_worlds import LiveWorld, draw_live
from tests.native.worlds import AT, EPOCH, SIDES, World, draw_body, draw_correction, draw_given, draw_scores, draw_std
from tests.reference.reply import DEVIATION, Scores

CAPACITY = 40
DIGEST_BYTES = 8
REQUEST_ID = 'r"\\/\b\f\n\r\t\x01\x1f\x7fé'
FillResult = native.core.FillResult
FILLED, UNREAD, LACKING = FillResult.FILLED, FillResult.UNREAD, FillResult.LACKING


class Given(NamedTuple):
    """Rows that were handed in: one for equal candidates; and live states, with whether each may be there."""

    user: Rows
    items: Rows
    live: LiveWorld | None
    known: list[bool] | None


class Made(NamedTuple):
    """What a request was scored with, and what became of it. `kept`: rows of candidates that were in the run, fewer
    than all if it was cut; `reply`: None if a score is not finite."""

    facts: "native.core.Found"
    rows: list[int]
    at: float
    shown: list[str]
    tensors: Tensors
    kept: int
    cut: Tensors
    deviated: np.ndarray[Any, np.dtype[np.float32]]
    deviations: bytes | None
    scores: Scores
    correction: LearnedCorrection | None
    arm: str | None
    places: list[Scores]
    reply: bytes | None
    choice: Choice | None
    user_rung: str | None
    rungs: Mapping[str, str]


class Observed(NamedTuple):
    """One request: what it met, and what was made of it, None if it was refused."""

    body: bytes
    live: LiveWorld | None
    reads_texts: bool
    outcome: "native.core.FillResult"
    asked: "native.core.Asked | None"
    rows_kept: "native.core.Kept | None"
    given: Given | None
    made: Made | None

    def digest(self) -> bytes:
        """Return a digest of all that the core said. Of a propensity nine digits count: logarithms differ in their last
        between processors."""
        said = self.outcome.value, fields_of(self.asked, "user_id", "ids", "at", "history", "texts")
        digest = blake2b(repr(said).encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES)
        if (made := self.made) is not None:
            told = [fields_of(made.facts, *FACTS), made.rows, made.at, made.shown, made.user_rung, made.rungs]
            told.append(None if made.choice is None else made.choice[:-1])
            reply = made.reply and re.sub(rb'(?<="propensity":)[^,}]+', _nine_digits, made.reply)
            digest.update(repr((told, reply)).encode("utf-8", "surrogatepass"))
            for name, tensor in (*made.tensors.items(), *made.cut.items()):
                digest.update(name.encode() + tensor.tobytes())
            kept = fields_of(self.rows_kept, *KEPT)
            digest.update(repr((made.deviations, kept)).encode("utf-8", "surrogatepass"))
        return digest.digest()


FACTS = "has_user", "items", "asked", "user_written_at", "item_written_at", "live_age_s"
KEPT = "user", "items", "found", "history"


def fields_of(one: object, *names: str) -> tuple[Any, ...] | None:
    """Return the named fields of one of the core's structs; None for None."""
    return None if one is None else tuple(getattr(one, name) for name in names)


def _nine_digits(found: re.Match[bytes]) -> bytes:
    return b"%.9g" % float(found[0])


class CoreOfWorld:
    """The core over one world, on files or on arenas."""

    def __init__(self, world: World, random: Random, is_file: bool) -> None:
        core = native.core
        self.world, self.is_file, self.metrics = world, is_file, Metrics()
        self.files, self.arenas = world.files(), world.arenas(random)
        # Read for the first time, so that the core proves blocks itself.
        self._unread = world.files()
        self._sources = [
            core_rows(self._unread[side].memory()) if is_file else self.arenas[side].core() for side in SIDES
        ]
        self.tensors = new_tensors(world.schema, CAPACITY)
        self.heads = random.choice([["pctr"], ["pctr", "pcvr"], ["pctr", "value", "pcvr"]])
        self.formula: Formula = random.choice([formula_of(self.heads), {"cpc": ("pctr",)}, {"cpa": tuple(self.heads)}])
        self.explore_share = random.choice([0.0, 0.5, 1.0, 1.0, 1.0])
        self.uncertainty = random.choice([None, Uncertainty(new=random.uniform(0.01, 10))])
        served = core_model("v", self.formula, self.explore_share, self.uncertainty)
        self._frame = core.Frame(core_schema(world.schema, world.codecs), served, self.tensors, CAPACITY)

    def observe(self, random: Random) -> Observed:
        """Draw a request, and have the core make all of it."""
        body, frame = draw_body(random, self.world), self._frame
        live = draw_live(random, self.world, self.metrics) if random.random() < 0.3 else None
        reads_texts, keeps_rows = random.random() < 0.5, random.random() < 0.5
        epochs, ask = None if self.is_file else (EPOCH, 99), live.ask if live else None
        take = partial(frame.take, body, CAPACITY)
        users, items_ = self._sources
        outcome = take(users, items_, AT, epochs, ask, reads_texts, keeps_rows)
        if outcome == UNREAD:
            return Observed(body, live, reads_texts, outcome, None, None, None, None)
        asked, kept = frame.asked, frame.kept if outcome == FILLED and keeps_rows else None
        given = None
        if outcome == LACKING or random.random() < 0.3:
            user, items = draw_given(random, self.world, AskedRequest.of(asked))
            over = draw_live(random, self.world, self.metrics) if random.random() < 0.5 else None
            known = None if random.random() < 0.5 else [random.random() < 0.8 for _ in range(1 + len(asked.ids))]
            given = Given(user, items, over, known)
            ask = None if over is None else partial(over.known, known)
            assert take(fetched_rows(user), fetched_rows(items), AT, None, ask, reads_texts) == FILLED
        return Observed(body, live, reads_texts, outcome, asked, kept, given, self._made(random, json.loads(body)))

    def stored(self, side: RowSide, ids: Sequence[str]) -> Rows:
        """Return the rows that the core read."""
        if list(ids) == [ANONYMOUS]:
            return self.world.codecs[side].unpack([None])
        if self.is_file:
            return self.files[side].get(list(ids))
        held = self.arenas[side].look_up(list(ids))
        assert (held.epochs == EPOCH).all(), "the core may fill only from what is sure"
        assert (held.places >= 0).all(), "the core may fill only from what is held"
        return self.arenas[side].rows(held.places)

    def _made(self, random: Random, document: dict[str, Any]) -> Made:
        frame, count = self._frame, self._frame.count
        facts, rows, at, shown = frame.found, frame.rows, frame.at, frame.shown
        tensors = self._copied(rows[:count])
        size = kept = max(rows[:count]) + 1
        cut: Tensors = {}
        if random.random() < 0.3:
            kept = random.randrange(size)
            frame.cut(kept)
            ran = rows[: rows.index(kept)]
            cut = {name: tensor for name, tensor in self._copied([*ran, kept]).items() if name.startswith("item_")}
            size = kept + 1
        deviated = draw_std(random, size).clip(0, 1)
        deviations = frame.deviate(deviated)
        scores = {head: draw_scores(random, size) for head in self.heads}
        if document.get("explore"):  # has logarithms of scores, which are probabilities then
            scores = {head: column.clip(0, 1) for head, column in scores.items()}
            if random.random() < 0.9:
                scores[DEVIATION] = draw_std(random, size)
        correction = draw_correction(random, self.world.schema) if random.random() < 0.3 else None
        arm = random.choice([None, "b"])
        lines = [] if correction is None else core_corrections(correction.lines_for(self.world.schema))
        places = [_one_of(random, scores) for _ in range(1, document.get("page") or 1)]
        before = {name: column.copy() for name, column in self.tensors.items()}
        try:
            reply = frame.reply(REQUEST_ID, arm, scores, kept, lines, places)
        except ValueError:
            reply = None
        assert all(self.tensors[name].tobytes() == column.tobytes() for name, column in before.items())
        choice, rung, rungs = (choice_of(frame), frame.user_rung, frame.rungs) if reply else (None, None, {})
        return Made(
            *(facts, rows, at, shown, tensors, kept, cut, deviated, deviations, scores),
            *(correction, arm, places, reply, choice, rung, rungs),
        )

    def _copied(self, rows: list[int]) -> Tensors:
        return {
            name: tensor[rows] if name.startswith("item_") else tensor.copy() for name, tensor in self.tensors.items()
        }


def _one_of(random: Random, scores: Scores) -> Scores:
    """Return what a run of one candidate gives."""
    return {head: draw_std(random, 1) if head == DEVIATION else draw_scores(random, 1).clip(0, 1) for head in scores}
