"""Scores requests outside of a service's queue by the code that serves: from a request's bytes to its reply's, one
after the other in the calling thread, with the model's runs at low priority. Does not know bundles' files, nor HTTP.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.contract.correction import Correction, Line
from msd.contract.exploration import Choice
from msd.contract.rows import Rows
from msd.contract.schema import FeatureSchema
from msd.contract.tensors import Rung
from native import core
from native.layout import (
    AskedRequest,
    Run,
    choice_of,
    columns_of,
    core_corrections,
    fetched_rows,
    new_desk,
    new_tensors,
)
from native.live_state import AskLive


class Scored(NamedTuple):
    """A scored request: the reply's body; the time that it was scored for (Unix s); the scores [N] by head, in the
    request's order; how candidates are degraded, by ID; the choice of the first one if the request explores; and what
    they were corrected by."""

    reply: bytes
    at: float
    scores: dict[str, NDArray[np.float32]]
    rungs: dict[str, Rung]
    choice: Choice | None
    correction: Correction | None


@dataclass(slots=True)
class _Terms:
    """With what the next request is scored, for the core, and what was seen of the last one."""

    loaded: "core.LoadedModel"
    live: AskLive | None = None
    corrections: Sequence[Line] = ()
    seen: list[Scored] = field(default_factory=list)

    def assigned(self, user_id: str, request_id: str) -> "core.Assignment":
        return core.Assignment(
            model=self.loaded,
            arm=None,
            slot=0,
            epochs=_EPOCHS,
            live=self.live,
            reads_texts=False,
            corrections=core_corrections(self.corrections),
            of=None,
        )

    def look(self, part: "core.ScoredPart") -> None:
        frame = part.frame
        correction = None if frame.correction is None else Correction.of(frame.correction)
        self.seen = [Scored(b"", frame.at, columns_of(frame), frame.rungs, choice_of(frame), correction)]


_EPOCHS = (0,)


class OfflineScorer:
    """Scores requests with one model. For one thread."""

    def __init__(
        self,
        schema: FeatureSchema,
        form: "core.Schema",
        served: "core.ServedModel",
        heads: Sequence[str],
        model: "core.OrtModel | None",
        run: Run,
        capacity: int,
        rows: "tuple[core.RowFile | core.Arena, core.RowFile | core.Arena] | None" = None,
    ) -> None:
        """`form` and `served`: of `core_schema` and `core_model`. `model`: an OrtModel; if None, `run` is the model.
        `capacity`: candidates of a request. `rows`: files of users and items, or arenas in epoch 0; if None, each
        request comes with its rows."""
        desk = partial(new_desk, schema, form, served, run if model is None else None, heads, capacity)
        users, items = rows or (None, None)
        loaded = core.LoadedModel(
            schema=form,
            runner=core.Runner(),
            heads=heads,
            ort=model,
            users=users,
            items=items,
            new_desk=desk,
            capacity=capacity,
            openrtb=None,
        )
        # The core's plan may not know this object, or neither would ever be freed.
        self._terms = terms = _Terms(loaded)
        plan = core.Plan(
            of="offline",
            model=loaded,
            assign=terms.assigned,
            is_by_user=False,
            wants=_always,
            look=terms.look,
            translate=None,
        )
        self._core = core.OfflineScorer(plan, capacity)
        self._frame_of = partial(_new_frame, schema, form, served, capacity)
        self._capacity = capacity

    @cached_property
    def _frame(self) -> "core.Frame":
        return self._frame_of()

    def asked(self, body: bytes) -> AskedRequest | None:
        """Return what has to be fetched for a request; None if the core refuses it."""
        is_read = self._frame.read(body, self._capacity)
        return AskedRequest.of(self._frame.asked) if is_read else None

    def score(
        self,
        body: bytes,
        request_id: str = "",
        *,
        given: tuple[float, Rows, Rows] | None = None,
        live: AskLive | None = None,
        corrections: Sequence[Line] = (),
        most: int = 0,
    ) -> Scored:
        """Score one request. `given`: its time, the row of its user [1] and those that it wants. `live` returns
        states, as `service.live` does. `most`: different candidates to run, the first ones; 0 for all.

        Raises ValueError if the core refuses the request, lacks rows, or a score is not finite.
        """
        terms, fetched = self._terms, None
        if given is not None:
            at, user, items = given
            fetched = core.Fetched(
                user=fetched_rows(user), items=fetched_rows(items), live=None, at=at, seconds=0.0, of=None
            )
        terms.live, terms.corrections, terms.seen = live, corrections, []
        reply = self._core.score(request_id, body, fetched, most)
        return terms.seen[0]._replace(reply=reply)


def _new_frame(schema: FeatureSchema, form: "core.Schema", served: "core.ServedModel", capacity: int) -> "core.Frame":
    return core.Frame(form, served, new_tensors(schema, capacity), capacity)


def _always(request_id: str) -> bool:
    return True
