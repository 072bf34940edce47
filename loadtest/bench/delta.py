"""Measures how soon a changed row is used: an item gets another's row, and is scored until its score changes."""

import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from redis import Redis

from loadtest.bench.processes import ServiceError, msd, told
from loadtest.http_client import Client
from msd.contract.bundle import ROWS, Bundle, file_entries, open_bundle, write_manifest
from msd.contract.redis_keys import key_prefix
from msd.contract.row_file import RowFile
from msd.contract.row_writer import write_row_file
from msd.contract.rows import RowCodec

_PATIENCE_S = 30.0
_MOVED = 0.5


@dataclass(frozen=True)
class _Change:
    """The changed item, and the score of the item whose row it gets."""

    item: str
    like: str
    before: float
    after: float


def delta_visible_ms(bundle: Path, redis: str, url: str, body: bytes, work: Path) -> float:
    """Return the milliseconds from the row's change in Redis until a reply has the new score.

    `body` is a request for candidates with different scores. Raises ServiceError if the change does not arrive.
    """
    opened = open_bundle(bundle)
    request = json.loads(body)
    with Client(url) as client:
        change = _change(request, client.scores(body))
        delta = _delta(opened, change, work)
        asked = json.dumps({**request, "candidates": {"id": [change.item]}}).encode()
        client.scores(asked)
        key = key_prefix(opened.bundle_id, "item") + change.item
        with Redis.from_url(redis) as rows, msd("publish", str(delta), "--delta", "--redis", redis) as publishing:
            return _waited(rows, key, client, asked, change, publishing)


def _waited(
    rows: "Redis",
    key: str,
    client: Client,
    asked: bytes,
    change: _Change,
    publishing: "subprocess.Popen[str]",
) -> float:
    old, end = rows.get(key), time.monotonic() + _PATIENCE_S
    while rows.get(key) == old:
        if publishing.poll() or time.monotonic() > end:
            raise ServiceError(f"`msd publish --delta` changed nothing: {publishing.communicate()[1].strip()}")
    changed = time.monotonic()
    while abs(client.scores(asked)[0] - change.before) <= _MOVED * abs(change.after - change.before):
        if time.monotonic() > end:
            raise ServiceError(f"a changed row was not scored with within {_PATIENCE_S:g} s")
    return round(1e3 * (time.monotonic() - changed), 1)


def _change(request: dict[str, Any], scores: list[float]) -> _Change:
    """Give the candidate with the lowest score the row of the highest."""
    ids = request["candidates"]["id"]
    least, most = int(np.argmin(scores)), int(np.argmax(scores))
    return _Change(ids[least], ids[most], scores[least], scores[most])


def _delta(bundle: Bundle, change: _Change, work: Path) -> Path:
    """Make a delta folder from the bundle and a copy with one changed row."""
    copy, out = work / "changed", work / "delta"
    for folder in (copy, out):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(bundle.folder, copy)
    codec = RowCodec(bundle.schema, "item", bundle.bundle_id)
    file = RowFile(bundle.path(ROWS["item"]), codec, bundle.bundle_id)
    ids, rows = zip(*file.scan(0, file.count), strict=True)
    records = np.frombuffer(bytearray(b"".join(rows)), codec.dtype)
    records[ids.index(change.item)] = records[ids.index(change.like)]
    write_row_file(copy / ROWS["item"], codec, bundle.bundle_id, list(ids), records, [])
    write_manifest(copy, bundle.manifest.model_copy(update={"files": file_entries(copy)}))
    told("delta", str(bundle.folder), str(copy), str(out))
    return out
