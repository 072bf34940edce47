"""Scores requests outside of a service's queue by the code that serves: from a request's bytes to its reply's, one
after the other in the calling thread, with the model's runs at low priority. Does not know bundles' files, nor HTTP.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.contract.correction import Correction, Line
from msd.contract.exploration import Choice
from msd.contract.rows import Rows
from msd.contract.schema import FeatureSchema
from msd.contract.tensors import Tensors
from native import core
from native.layout import AskedRequest, Run, given_rows, new_desk, new_tensors


class Scored(NamedTuple):
    """A scored request: the reply's body; the time that it was scored for (Unix s); the scores [N] by head, in the
    request's order; how candidates are degraded, by ID; the choice of the first one if the request explores; and what
    they were corrected by."""

    reply: bytes
    at: float
    scores: dict[str, NDArray[np.float32]]
    rungs: dict[str, str]
    choice: Choice | None
    correction: Correction | None


@dataclass(slots=True)
class _Terms:
    """With what the next request is scored, for the core, and what was seen of the last one."""

    loaded: object
    live: Callable[..., object] | None = None
    corrections: Sequence[Line] = ()
    seen: list[Scored] = field(default_factory=list)

    def assigned(self, *_: object) -> tuple[object, ...]:
        return self.loaded, None, 0, _EPOCHS, self.live, False, self.corrections

    def look(self, frame: Any, tensors: Tensors, *_: object) -> None:  # noqa: ANN401 - the core has no types
        columns = {head: np.frombuffer(column, np.float32) for head, column in frame.columns.items()}
        choice = None if frame.choice is None else Choice(*frame.choice)
        correction = None if frame.correction is None else Correction.of(frame.correction)
        self.seen = [Scored(b"", frame.at, columns, frame.rungs, choice, correction)]


_EPOCHS = (0,)


class OfflineScorer:
    """Scores requests with one model. For one thread."""

    def __init__(
        self,
        schema: FeatureSchema,
        form: object,
        served: object,
        heads: Sequence[str],
        model: object,
        run: Run,
        capacity: int,
        rows: tuple[object, object] | None = None,
    ) -> None:
        """`form` and `served`: of `core_schema` and `core_model`. `model`: an OrtModel; if None, `run` is the model.
        `capacity`: candidates of a request. `rows`: files of users and items, or arenas in epoch 0; if None, each
        request comes with its rows."""
        assert core is not None, "the schema has a form"
        desk = partial(new_desk, schema, form, served, run if model is None else None, heads, capacity)
        users, items = rows or (None, None)
        loaded = core.LoadedModel(form, core.Runner(), heads, model, users, items, desk, capacity, None)
        # The core's plan may not know this object, or neither would ever be freed.
        self._terms = terms = _Terms(loaded)
        plan = core.Plan("offline", loaded, terms.assigned, False, _always, terms.look, None)
        self._core: Any = core.OfflineScorer(plan, capacity)
        self._frame_of = partial(_new_frame, schema, form, served, capacity)
        self._capacity = capacity

    @cached_property
    def _frame(self) -> Any:  # noqa: ANN401 - the core has no types
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
        live: Callable[..., object] | None = None,
        corrections: Sequence[Line] = (),
        most: int = 0,
    ) -> Scored:
        """Score one request. `given`: its time, the row of its user [1] and those that it wants. `live` returns
        states, as `service.live` does. `most`: different candidates to run, the first ones; 0 for all.

        Raises ValueError if the core refuses the request, lacks rows, or a score is not finite.
        """
        terms, rows = self._terms, None
        if given is not None:
            at, user, items = given
            rows = (*given_rows(user, items), None, at, 0.0, None)
        terms.live, terms.corrections, terms.seen = live, corrections, []
        reply = self._core.score(request_id, body, rows, most)
        return terms.seen[0]._replace(reply=reply)


def _new_frame(schema: FeatureSchema, form: object, served: object, capacity: int) -> Any:  # noqa: ANN401
    assert core is not None, "the schema has a form"
    return core.Frame(form, served, new_tensors(schema, capacity), capacity)


def _always(request_id: str) -> bool:
    return True
