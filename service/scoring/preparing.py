"""Prepares a user: rows, tensors, and the part of the model that no candidate enters; and writes the reply.

Knows no HTTP. What is prepared is kept by `prepared`; `pipeline` scores candidates for it.
"""

import time
from functools import partial
from typing import Any

import orjson
from pydantic import BaseModel, Field

from msd.contract.assemble import Tensors, assemble
from msd.contract.prepared import PrepareRequest, check_user, parse_prepare
from service.scoring.admission import Load
from service.scoring.answer import Asked
from service.scoring.job import Job
from service.scoring.lineup import Lineup
from service.scoring.pipeline import Pipeline
from service.scoring.prepared import PreparedUser, PreparedUsers
from service.scoring.reply import Degraded
from service.scoring.run_queue import RunQueue


class PrepareReply(BaseModel):
    """The answer to a request to prepare a user."""

    request_id: str
    model_version: str
    arm: str | None = Field(default=None, description="Arm of the experiment; absent without one.")
    prepared: str = Field(description="Token for the scoring requests; only this process knows it.")
    expires_in_s: float
    degraded: Degraded | None = None


class Preparing:
    """Prepares users. For the event loop."""

    def __init__(self, pipeline: Pipeline, queue: RunQueue, prepared: PreparedUsers) -> None:
        self._pipeline = pipeline
        self._queue = queue
        self._prepared = prepared

    async def answer(self, lineup: Lineup, asked: Asked) -> bytes:
        """Return the reply's body. Raises RequestError, and what `Pipeline.score` raises."""
        wire = parse_prepare(asked.body, lambda user_id: lineup.schema_of(user_id or asked.request_id))
        user = await self._prepare(lineup, asked, wire)
        document: dict[str, Any] = {"request_id": asked.request_id, "model_version": user.arm.model.version}
        if lineup.is_split:
            document["arm"] = user.arm.name
        document |= {"prepared": self._prepared.put(user), "expires_in_s": self._prepared.seconds}
        degraded: dict[str, Any] = {"user": user.degraded} if user.degraded else {}
        if user.request.unknown:
            degraded["values"] = dict.fromkeys(user.request.unknown, "unknown")
        if degraded:
            document["degraded"] = degraded
        return orjson.dumps(document)

    async def _prepare(self, lineup: Lineup, asked: Asked, wire: PrepareRequest) -> PreparedUser:
        arm, deadline = lineup.arm_of(wire.user_id or asked.request_id), asked.terms.deadline
        model = arm.model
        request = check_user(wire, model.schema)
        at = time.time() if wire.at is None else wire.at
        two = model.two_phases
        admitted = self._queue.admission.enter(Load(1, two.prepares.turn_s.of(1, 0.0) if two else 0.0), deadline)
        try:
            # The row as it is stored: live states are laid over it again when candidates are scored.
            stored = await self._pipeline.rows(model, deadline, "user", [request.user_id])
            user, history_rows = await self._pipeline.fetch(model, request, at, deadline)
            assembled = assemble(model.schema, request, at, user, history_rows)
            sides = {spec.name: spec.side for spec in model.schema.tensors}
            tensors = {name: one for name, one in assembled.tensors.items() if sides[name] != "item"}
            values: Tensors | None = None
            if two is not None:
                work = partial(two.halves.prepared, tensors)
                values = (await self._queue.do(Job(work, two.prepares, 1, deadline, asked.terms.is_gone))).result
        finally:
            self._queue.admission.leave(admitted)
        history = list(user.histories[0] if request.history is None else request.history)
        return PreparedUser(
            arm,
            wire,
            len(asked.body),
            request,
            at,
            stored,
            history,
            history_rows,
            tensors,
            assembled.degraded_user,
            values,
        )
