"""A request to score and the answer to it, as they pass between HTTP, scoring and whoever follows replies.

Knows none of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from msd.contract.assemble import Rung, UserRung
from msd.contract.correction import HEAD, Correction
from msd.contract.log import Basis
from msd.contract.request import CheckedRequest
from service.runtimes.runtime import Scores
from service.scoring.lineup import Lineup
from service.scoring.model import Model

# Memory of a string and its place in a list, about.
_STRING_BYTES = 80

Headers = list[tuple[bytes, bytes]]


class Terms(NamedTuple):
    """Until when a request is to be scored, by `time.perf_counter`, and whether its client has left."""

    deadline: float
    is_gone: Callable[[], bool]


class Asked(NamedTuple):
    """A request to score. `began`: when its answering began, by `time.perf_counter`. `is_pythons`: whether the
    native core is not to try, because it has, or because the answer has to hold what was `served`."""

    request_id: str
    body: bytes
    began: float
    terms: Terms
    is_pythons: bool = False


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores [N] by head, in the request's order, the degradation to declare, what they were made from, what they were
    corrected by, and how long the stages took."""

    scores: Scores
    degraded_candidates: dict[str, Rung]
    degraded_user: UserRung | None
    basis: Basis
    correction: Correction | None = None
    rows_s: float = 0.0
    queue_s: float = 0.0
    run_s: float = 0.0

    @property
    def model_scores(self) -> Scores:
        """The scores as the model gave them, to rounding."""
        if self.correction is None:
            return self.scores
        return {**self.scores, HEAD: self.correction.undone(self.scores[HEAD])}


class Served(NamedTuple):
    """One scored request, when its reply was made: `seconds` are those of parse, rows, queue, run and all together."""

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
        """Bytes of memory that it keeps, about."""
        basis = self.scored.basis
        arrays = (basis.user.records, basis.items.records, *self.scored.scores.values())
        return len(self.body) + sum(one.nbytes for one in arrays) + _STRING_BYTES * len(basis.items.found)


class Answer(NamedTuple):
    """A reply's headers and body, and what log, metrics and traces tell of it. `stages`: seconds, as `STAGES` are."""

    headers: Headers
    body: bytes
    candidates: int
    degraded: dict[str, int]
    stages: tuple[float, ...]
    lineup: Lineup
    served: Served | None
    """None if no follower wanted it."""


class Follower(Protocol):
    """Is shown each reply once it is on its way. Takes no time."""

    def wants(self, lineup: Lineup, request_id: str) -> bool:
        """Whether it needs to see what a request's scores came from."""
        ...

    def follow(self, answer: Answer) -> None:
        """Take note of a reply."""
        ...
