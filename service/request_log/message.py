"""What a worker tells the log's writer of a request, or of events: a few fields as JSON, and bytes as they lie.

Made while other requests wait, so that it copies and no more; what can be worked out is left to the writer.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from msd.contract.errors import MsdError
from msd.contract.log import EventRecord, RequestRecord
from msd.contract.request import CheckedRequest
from service.lineup.model import Model
from service.reply import served_places
from service.scorer import Scored

_REQUEST, _EVENTS = b"r", b"e"
_SIZE = struct.Struct("<I")
_STAGES = ("parse_ms", "rows_ms", "queue_ms", "run_ms", "total_ms")


class MessageError(MsdError):
    """Not a message of this release."""


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


class RequestTold(NamedTuple):
    """A record, and where the bundle is, if it is the champion's."""

    record: RequestRecord
    champion_folder: Path | None


def request_message(served: Served) -> bytes:
    """The message of one request."""
    model, scored, request = served.model, served.scored, served.request
    basis = scored.basis
    engine, user, items = model.engine, basis.user, basis.items
    head = {
        "request_id": served.request_id,
        "received_at": served.received_at,
        "at": basis.at,
        "arm": served.arm,
        "arm_share": served.arm_share,
        "model_version": model.version,
        "bundle_id": model.bundle.bundle_id,
        "manifest_sha256": model.identity,
        "engine": engine.key,
        "runtime_version": engine.version,
        "instructions": " ".join(engine.instructions),
        "threads": engine.threads,
        "ran": basis.ran,
        "is_partial": basis.is_partial,
        "together": basis.together,
        "user_id": request.user_id,
        "history": user.histories[0] if request.history is None else request.history,
        "user_found": bool(user.found[0]),
        "user_stale": None if user.stale is None else bool(user.stale[0]),
        "heads": list(scored.scores),
        "degraded_user": scored.degraded_user,
        "degraded": scored.degraded_candidates,
        "champion_folder": str(model.bundle.folder.resolve()) if served.is_champion else None,
        **{name: 1000 * seconds for name, seconds in zip(_STAGES, served.seconds, strict=True)},
    }
    parts = [
        served.body,
        user.records.tobytes(),
        items.records.tobytes(),
        items.found.tobytes(),
        b"" if items.stale is None else items.stale.tobytes(),
        *(column.tobytes() for column in scored.scores.values()),
    ]
    return _joined(_REQUEST, [orjson.dumps(head), *parts])


def events_message(body: bytes, received_at: float) -> bytes:
    """The message of events that were accepted: the body of their request."""
    return _joined(_EVENTS, [orjson.dumps(received_at), body])


def read_message(message: bytes) -> RequestTold | list[EventRecord]:
    """The record of a request, or those of events. Raises MessageError."""
    try:
        head, *parts = _parts(message)
        if message[:1] == _REQUEST:
            return _request(orjson.loads(head), parts)
        if message[:1] == _EVENTS:
            return list(_events(orjson.loads(head), parts[0]))
    except (ValueError, KeyError, IndexError, TypeError, struct.error) as error:
        raise MessageError(f"a message to the log cannot be read: {error}") from error
    raise MessageError(f"a message to the log begins with {message[:1]!r}")


def _request(head: dict[str, Any], parts: list[bytes]) -> RequestTold:
    body, user_row, item_rows, found, stale, *scores = parts
    request = orjson.loads(body)
    ids, bids = request["candidates"]["id"], request["candidates"].get("bid")
    degraded, folder = head.pop("degraded"), head.pop("champion_folder")
    columns = [np.frombuffer(column, np.float32) for column in scores]
    top_k = request.get("top_k")
    record = RequestRecord(
        **head,
        request=body,
        item_ids=ids,
        bids=bids,
        user_row=user_row,
        item_rows=item_rows,
        items_found=found,
        items_stale=stale or None,
        scores=columns,
        rungs=[degraded.get(one) for one in ids] if degraded else None,
        served=None if top_k is None else served_places(bids, columns[0], top_k).tolist(),
    )
    return RequestTold(record, None if folder is None else Path(folder))


def _events(received_at: float, body: bytes) -> Iterator[EventRecord]:
    for event in orjson.loads(body)["events"]:
        yield EventRecord(
            event_id=event["event_id"],
            type=event["type"],
            user_id=event["user_id"],
            item_id=event["item_id"],
            at=received_at if event.get("at") is None else event["at"],
            request_id=event.get("request_id"),
            received_at=received_at,
        )


def _joined(kind: bytes, parts: list[bytes]) -> bytes:
    return kind + b"".join(piece for part in parts for piece in (_SIZE.pack(len(part)), part))


def _parts(message: bytes) -> Iterator[bytes]:
    place = 1
    while place < len(message):
        (size,) = _SIZE.unpack_from(message, place)
        place += _SIZE.size + size
        if place > len(message):
            raise ValueError("it is cut short")
        yield message[place - size : place]
