"""What the request log is told of a scored request or of events, and the records that it becomes.

Telling keeps references and copies nothing, so arrays of a scored request may not change after its reply.
"""

from collections.abc import Iterator
from typing import NamedTuple

import orjson

from msd.contract.log import EventRecord, RequestRecord
from service.scoring.answer import Served
from service.scoring.reply import served_places

_STAGES = ("parse_ms", "rows_ms", "queue_ms", "run_ms", "total_ms")


class Events(NamedTuple):
    """The body of a request to `POST /v1/events` whose `total` events were accepted."""

    body: bytes
    total: int
    received_at: float

    @property
    def size(self) -> int:
        """Bytes of memory that it keeps."""
        return len(self.body)


def record_of(served: Served) -> RequestRecord:
    """The record of a request. Raises UnicodeEncodeError for an ID with half of a surrogate pair, which UTF-8 lacks."""
    model, scored, request = served.model, served.scored, served.request
    basis, engine, degraded = scored.basis, served.model.engine, scored.degraded_candidates
    user, items = basis.user, basis.items
    columns = list(scored.scores.values())
    history = list(user.histories[0] if request.history is None else request.history)
    "".join([served.request_id, request.user_id, *request.ids, *history]).encode()
    return RequestRecord(
        request_id=served.request_id,
        received_at=served.received_at,
        at=basis.at,
        arm=served.arm,
        arm_share=served.arm_share,
        model_version=model.version,
        bundle_id=model.bundle.bundle_id,
        manifest_sha256=model.identity,
        engine=engine.key,
        runtime_version=engine.version,
        instructions=" ".join(engine.instructions),
        threads=engine.threads,
        ran=basis.ran,
        is_partial=basis.is_partial,
        together=basis.together,
        user_id=request.user_id,
        request=served.body,
        history=history,
        item_ids=request.ids,
        bids=request.bids,
        user_row=user.records.tobytes(),
        user_found=bool(user.found[0]),
        user_stale=None if user.stale is None else bool(user.stale[0]),
        item_rows=items.records.tobytes(),
        items_found=items.found.tobytes(),
        items_stale=None if items.stale is None else items.stale.tobytes(),
        heads=list(scored.scores),
        scores=columns,
        degraded_user=scored.degraded_user,
        rungs=[degraded.get(one) for one in request.ids] if degraded else None,
        served=None if request.top_k is None else served_places(request.bids, columns[0], request.top_k).tolist(),
        **{name: 1000 * seconds for name, seconds in zip(_STAGES, served.seconds, strict=True)},
    )


def records_of(events: Events) -> Iterator[EventRecord]:
    """The record of each event."""
    for event in orjson.loads(events.body)["events"]:
        yield EventRecord(
            event_id=event["event_id"],
            type=event["type"],
            user_id=event["user_id"],
            item_id=event["item_id"],
            at=events.received_at if event.get("at") is None else event["at"],
            request_id=event.get("request_id"),
            received_at=events.received_at,
        )
