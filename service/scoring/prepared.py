"""Prepared users: what `POST /v1/prepare` computed before the candidates are known, kept for seconds under tokens.

Bounded in bytes and time; the oldest are dropped first. For any thread. Does not know how users are prepared.
"""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from msd.contract.assemble import Tensors, UserRung
from msd.contract.prepared import PrepareRequest
from msd.contract.request import CheckedRequest
from msd.contract.rows import Rows
from service.errors import NotPrepared
from service.scoring.lineup import Arm, Lineup
from service.telemetry.metrics import Metrics

# Of the objects around arrays and strings, approximately.
_OBJECT_BYTES, _STRING_BYTES = 2_048, 60
# What a byte of JSON may become, at most: a list of IDs of two characters.
_PARSED_BYTES = 12
_TOKEN_BYTES = 16


@dataclass(frozen=True, slots=True, eq=False)
class PreparedUser:
    """A user in a context at a time (`at`, Unix s), for the model of an arm."""

    arm: Arm
    wire: PrepareRequest
    body_size: int
    """Bytes of JSON that `wire` was read from."""
    request: CheckedRequest
    """`wire`, checked; it has no candidates."""
    at: float
    user: Rows
    """[1]"""
    history: Sequence[str]
    history_rows: Rows
    tensors: Tensors
    """The tensors of user, context and history."""
    degraded: UserRung | None
    values: Tensors | None
    """The inputs of the model's second half; None if the graph is not split."""

    @property
    def size(self) -> int:
        """Memory in bytes, approximately."""
        arrays = {id(one): one for one in (*self.tensors.values(), *(self.values or {}).values())}
        held = sum(one.nbytes for one in arrays.values())
        held += self.user.records.nbytes + self.history_rows.records.nbytes
        held += sum(_STRING_BYTES + len(one) for one in self.history)
        # All of a long history in the request is kept, though only its end counts.
        return held + _OBJECT_BYTES + _PARSED_BYTES * self.body_size

    def values_for(self, tensors: Tensors) -> Tensors | None:
        """Return `values` if a request has the user's tensors as they were prepared; live states may have changed."""
        if self.values is None:
            return None
        same = all(np.array_equal(tensors[name], tensor) for name, tensor in self.tensors.items())
        return self.values if same else None

    def arm_in(self, lineup: Lineup) -> Arm | None:
        """Return the arm that scores this user; None if its model does not serve any more."""
        arms = [one for one in lineup.arms if one.model is self.arm.model]
        # Several arms may have one model.
        return min(arms, key=lambda one: one.name != self.arm.name, default=None)


class PreparedUsers:
    """Prepared users by token, of this process."""

    def __init__(self, metrics: Metrics, max_bytes: int, seconds: float) -> None:
        self.seconds = seconds
        self._metrics = metrics
        self._max_bytes = max_bytes
        self._held: OrderedDict[str, tuple[float, int, PreparedUser]] = OrderedDict()
        """By token: when it expires, its bytes, and the user. The oldest is first."""
        self._bytes = 0
        self._process = secrets.token_hex(4)
        self._lock = threading.Lock()

    def put(self, user: PreparedUser) -> str:
        """Keep a user, and return the token. Evicts the oldest users if there is too little memory."""
        token, size, now = f"{self._process}-{secrets.token_hex(_TOKEN_BYTES)}", user.size, time.monotonic()
        with self._lock:
            self._expire(now)
            self._held[token] = (now + self.seconds, size, user)
            self._bytes += size
            while self._bytes > self._max_bytes and len(self._held) > 1:
                self._drop(next(iter(self._held)))
                self._metrics.prepared_evicted.inc()
            self._tell()
        self._metrics.prepared["prepared"].inc()
        return token

    def find(self, token: str, lineup: Lineup) -> tuple[PreparedUser, Arm] | None:
        """Return a user, and the arm of a line-up that scores this user; None if either is not there."""
        with self._lock:
            expires_at, _, user = self._held.get(token, (0.0, 0, None))
        if user is None or expires_at <= time.monotonic():
            return None
        arm = user.arm_in(lineup)
        return None if arm is None else (user, arm)

    def need(self, token: str, lineup: Lineup) -> tuple[PreparedUser, Arm]:
        """As `find`. Raises NotPrepared."""
        if found := self.find(token, lineup):
            return found
        if not token.startswith(f"{self._process}-"):
            self._metrics.prepared["foreign"].inc()
            raise NotPrepared(
                "the token is of another process, or of one that has restarted; send the whole request, and tokens to"
                " the process that prepared them",
                "prepared",
            )
        self._metrics.prepared["gone"].inc()
        raise NotPrepared(
            f"unknown token: it expired after {self.seconds:g} s, was evicted for lack of memory, or its"
            " bundle is no longer served; send the whole request",
            "prepared",
        )

    def keep(self, lineup: Lineup) -> None:
        """Drop expired users, and those whose model a new line-up does not serve: they would keep it in memory."""
        with self._lock:
            self._expire(time.monotonic())
            for token in [token for token, (_, _, user) in self._held.items() if user.arm_in(lineup) is None]:
                self._drop(token)
            self._tell()

    def _expire(self, now: float) -> None:
        while self._held:
            token, (expires_at, _, _) = next(iter(self._held.items()))
            if expires_at > now:
                return
            self._drop(token)

    def _drop(self, token: str) -> None:
        self._bytes -= self._held.pop(token)[1]

    def _tell(self) -> None:
        self._metrics.prepared_bytes.set(self._bytes)
