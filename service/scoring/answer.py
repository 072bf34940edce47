"""A request to score and its answer, as passed between HTTP, scoring and followers of replies. Knows none of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from msd.contract.assemble import Rung, UserRung
from msd.contract.correction import HEAD, Correction
from msd.contract.pricing import PRICED, Formula
from msd.contract.request import CheckedRequest
from msd.contract.rows import Rows
from service.runtimes.runtime import Scores
from service.scoring.deployment import Deployment
from service.scoring.exploration import Choice
from service.scoring.model import Model

# Memory of a string and its list entry, approximately.
_STRING_BYTES = 80

Headers = list[tuple[bytes, bytes]]
Wire = tuple[int, bytes, bytes]
"""What a scoring thread needs to send a 200 reply by itself: the connection's descriptor, and the first and the last
bytes of the reply's head."""


class Budget(NamedTuple):
    """A request's deadline, by `time.perf_counter`, and a check whether its client has left."""

    deadline: float
    is_gone: Callable[[], bool]


class RawRequest(NamedTuple):
    """A request to score. `began`: when handling began, by `time.perf_counter`. `skips_native`: skip the native core,
    because it has left the request to Python, or because the answer needs `served`."""

    request_id: str
    body: bytes
    began: float
    budget: Budget
    skips_native: bool = False


class Basis(NamedTuple):
    """The inputs of a scored request: the time, the user's row, those of `wanted_items`; the number of candidates in
    the run, which are only the first if time was short (`is_partial`)."""

    at: float
    user: Rows
    items: Rows
    ran: int
    is_partial: bool = False


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores [N] by head, in the request's order, the degradation to declare, their inputs, their correction, the
    stages' times, and how the bundle makes eCPM of prices."""

    scores: Scores
    degraded_candidates: dict[str, Rung]
    degraded_user: UserRung | None
    basis: Basis
    correction: Correction | None = None
    rows_s: float = 0.0
    queue_s: float = 0.0
    run_s: float = 0.0
    formula: Formula = field(default_factory=lambda: PRICED)
    choice: Choice | None = None
    """Which candidate is first, if the request explores."""

    @property
    def model_scores(self) -> Scores:
        """The model's scores without correction, to rounding."""
        if self.correction is None:
            return self.scores
        return {**self.scores, HEAD: self.correction.undone(self.scores[HEAD])}


class Served(NamedTuple):
    """One scored request with its reply: `seconds` are those of parse, rows, queue, run and in total."""

    request_id: str
    received_at: float
    arm: str
    arm_share: float
    is_champion: bool
    model: Model
    body: bytes
    request: CheckedRequest
    scored: Scored
    seconds: tuple[float, float, float, float, float]

    @property
    def size(self) -> int:
        """Memory in bytes, approximately."""
        basis = self.scored.basis
        arrays = (basis.user.records, basis.items.records, *self.scored.scores.values())
        return len(self.body) + sum(array.nbytes for array in arrays) + _STRING_BYTES * len(basis.items.found)


class Answer(NamedTuple):
    """A reply's headers and body, and its data for log, metrics and traces. `stages`: seconds, in the order of
    `STAGES`. `ready_at`: when the reply was ready, by `time.perf_counter`."""

    headers: Headers
    body: bytes
    candidates: int
    degraded: dict[str, int]
    stages: tuple[float, ...]
    ready_at: float
    deployment: Deployment
    served: Served | None
    """None unless a follower wants it."""


class Follower(Protocol):
    """Gets each reply after it was sent. Must be quick."""

    def wants(self, deployment: Deployment, request_id: str) -> bool: ...

    def follow(self, answer: Answer) -> None: ...
