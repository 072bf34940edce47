"""A request to score and the answer to it, as they pass between whoever reads HTTP, whoever scores, and whoever follows
replies. Knows none of them.
"""

from typing import NamedTuple, Protocol

from msd.contract.request import CheckedRequest
from service.models.lineup import Lineup
from service.models.model import Model
from service.scoring.scorer import Scored, Terms

_TIMING = b"parse;dur=%.3f, rows;dur=%.3f, queue;dur=%.3f, run;dur=%.3f, total;dur=%.3f"
_EXPLAINED = b", explain;dur=%.3f"
# Memory of a string and its place in a list, about.
_STRING_BYTES = 80

Headers = list[tuple[bytes, bytes]]


class Asked(NamedTuple):
    """A request to score. `began`: when its answering began, by `time.perf_counter`. `is_pythons`: whether the
    native core is not to try, because it has, or because the answer is to tell what was `served`."""

    request_id: str
    body: bytes
    began: float
    terms: Terms
    is_pythons: bool = False


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
    """None where nobody wanted to know what the scores came of."""


class Follower(Protocol):
    """Is shown each reply once it is on its way. Takes no time."""

    def wants(self, lineup: Lineup, request_id: str) -> bool:
        """Whether it is to be told what a request's scores came of."""
        ...

    def follow(self, answer: Answer) -> None:
        """Take note of a reply."""
        ...


def headers_of(reply: bytes, taken: tuple[float, ...], explain_s: float | None = None) -> Headers:
    """Of a reply whose parse, rows, queue, run and all of it took so many seconds."""
    timing = _TIMING % tuple(1000 * seconds for seconds in taken)
    if explain_s is not None:
        timing += _EXPLAINED % (1000 * explain_s)
    return [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(reply)),
        (b"server-timing", timing),
    ]
