"""What a worker and the encoder's process say to each other: texts of one bundle, and a vector, or why none, of each.

Both ends are of one release and of one service: nothing here is for strangers.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import orjson

from msd.contract.encoded import Vector

Outcome = Literal["encoded", "shared", "redis", "late", "dropped", "failed"]
OUTCOMES: tuple[Outcome, ...] = ("encoded", "shared", "redis", "late", "dropped", "failed")
_WITH_VECTOR = 3
"""So many of the outcomes, the first ones, come with a vector."""


class Question(NamedTuple):
    """Texts to be encoded by the encoder of a bundle, which has been verified under its manifest's hash; vectors have
    `width` numbers.

    What is not there after `wait_s` is answered as late, and goes on being made.
    """

    folder: str
    manifest_sha256: str
    bundle_id: str
    identity: str
    width: int
    wait_s: float
    texts: Sequence[str]

    def pack(self) -> bytes:
        """As it is sent."""
        return orjson.dumps(tuple(self))

    @classmethod
    def unpack(cls, payload: bytes) -> "Question":
        """As it came."""
        return cls(*orjson.loads(payload))


class Told(NamedTuple):
    """What came of one text; a vector [width] where there is one."""

    outcome: Outcome
    vector: Vector | None = None


def pack_answer(told: Sequence[Told]) -> bytes:
    """A byte for each text, then the vectors of those that have one."""
    outcomes = bytes(OUTCOMES.index(one.outcome) for one in told)
    return outcomes + b"".join(one.vector.astype("<f2").tobytes() for one in told if one.vector is not None)


def unpack_answer(payload: bytes, count: int, width: int) -> list[Told]:
    """Of `count` texts."""
    outcomes, vectors = payload[:count], np.frombuffer(payload, "<f2", offset=count).reshape(-1, width)
    rows = iter(vectors)
    return [Told(OUTCOMES[one], next(rows) if one < _WITH_VECTOR else None) for one in outcomes]
