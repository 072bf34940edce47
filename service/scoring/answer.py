"""What is known of a scored request, as passed between HTTP, scoring and followers of replies. Knows none of them."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from msd.contract.correction import Correction
from msd.contract.exploration import Choice
from msd.contract.rows import Rows
from msd.contract.tensors import Rung, Tensors, UserRung
from native import core
from service.runtimes.runtime import Scores
from service.scoring.deployment import Deployment
from service.scoring.model import Model

# Memory of a string and its list entry, approximately.
_STRING_BYTES = 80

Headers = list[tuple[bytes, bytes]]


class Basis(NamedTuple):
    """The inputs of a scored request: the time, the user's row, those of candidates and history; the number of
    candidates in the run, which are only the first if time was short (`is_partial`); whether those of other impressions
    were in it too."""

    at: float
    user: Rows
    items: Rows
    ran: int
    is_partial: bool = False
    is_shared: bool = False


class Served(NamedTuple):
    """One scored request with its reply: scores [N] by head, in the request's order; the degradation to declare; the
    correction; the choice if the request explores; the dense inputs of the model; and the seconds of parse, rows,
    queue, run and in total."""

    request_id: str
    received_at: float
    arm: str
    arm_share: float
    is_champion: bool
    model: Model
    body: bytes
    basis: Basis
    scores: Scores
    degraded_candidates: dict[str, Rung]
    degraded_user: UserRung | None
    correction: Correction | None
    choice: Choice | None
    inputs: Tensors
    seconds: tuple[float, float, float, float, float]

    @property
    def size(self) -> int:
        """Memory in bytes, approximately."""
        arrays = (self.basis.user.records, self.basis.items.records, *self.scores.values(), *self.inputs.values())
        return len(self.body) + sum(array.nbytes for array in arrays) + _STRING_BYTES * len(self.basis.items.found)

    @property
    def model_scores(self) -> Scores:
        """The model's scores without correction, to rounding."""
        return self.scores if self.correction is None else self.correction.undo(self.scores)


class Explained(NamedTuple):
    """What an explanation starts from: the model; the tensors of a request, and of an unknown one; its scores [N] and
    their correction; the items of the history that the model saw; and the candidates of the reply, by place."""

    model: Model
    tensors: Tensors
    nothing: Tensors
    pctr: NDArray[np.float32]
    correction: Correction | None
    shown: list[str]
    order: list[int]
    is_partial: bool


Translate = Callable[[Deployment, str, bytes | None, str, bytes], "core.Translation"]
"""Translates a request, by its path, the length of its JSON if that is given, its ID and its body. Raises errors for
its client. In any thread."""


class Seen(NamedTuple):
    """What is to be known of a request after its run: what followers learn; what an explanation starts from."""

    deployment: Deployment
    served: Served | None = None
    explained: Explained | None = None


class Follower(Protocol):
    """Learns of requests after their replies were sent. Must be quick."""

    def wants(self, deployment: Deployment, request_id: str) -> bool:
        """Return whether to follow a request. In any thread."""
        ...

    def follow(self, deployment: Deployment, served: Served | None) -> None:
        """Learn of an answered request; None unless a follower wants it."""
        ...
