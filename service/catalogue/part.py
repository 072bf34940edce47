"""The work of one shard: its items become one part of rows. Whoever runs it, here or elsewhere, gets the same part.

Does not know how many shards there are, nor which process it runs in.
"""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from msd.contract.bundle import open_verified
from msd.contract.files import sha256_file
from msd.contract.rows import has_semantic
from service.catalogue.errors import CatalogueError, WrongValue
from service.catalogue.item_rows import ID, ItemRows
from service.catalogue.parquet import PartAbout, new_part, read_about, read_shard


class Job(NamedTuple):
    """A shard, the part to be made of it, and the bundle, which was verified under its manifest's hash.

    run: marks what does not have its name yet.
    """

    shard: Path
    part: Path
    bundle: Path
    manifest_sha256: str
    bundle_id: str
    run: str


class Made(NamedTuple):
    """A part as it is now: how many rows, how many of them with a vector; whether it had been there already."""

    name: str
    rows: int
    vectors: int
    size: int
    sha256: str
    was_there: bool


def make_part(job: Job) -> Made:
    """Makes the part, unless it is there and of this very shard. Raises an MsdError that names file and row."""
    source = _digest(job.shard)
    was_there = job.part.exists()
    about = read_about(job.part) if was_there else None
    if about is not None and about.bundle_id != job.bundle_id:
        raise CatalogueError(
            f"{job.part}: has rows of bundle {about.bundle_id}, asked for are those of {job.bundle_id}: give a folder"
            " of its own to each bundle"
        )
    if about is None or about.source_sha256 != source:
        about, was_there = _make(job, source), False
    return Made(job.part.name, about.rows, about.vectors, job.part.stat().st_size, sha256_file(job.part), was_there)


def _make(job: Job, source: str) -> PartAbout:
    rows = _item_rows(job.bundle, job.manifest_sha256)
    seen: set[str] = set()
    vectors = 0
    with new_part(job.part, rows.size, job.run) as part:
        for batch in read_shard(job.shard, rows.features):
            try:
                ids, records = rows.pack(batch.columns)
                _note(ids, seen)
            except WrongValue as error:
                raise CatalogueError(f"{job.shard}, row {batch.start + error.place + 1}: {error.what}") from None
            vectors += int(np.count_nonzero(has_semantic(records)))
            part.write(ids, records.tobytes())
        about = PartAbout(bundle_id=job.bundle_id, source_sha256=source, rows=len(seen), vectors=vectors)
        part.tell(about)
    return about


def _note(ids: list[str], seen: set[str]) -> None:
    for place, one in enumerate(ids):
        if one in seen:
            raise WrongValue(place, f"{ID} {one!r} occurs twice")
        seen.add(one)


def _digest(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise CatalogueError(f"{path}: {error.strerror or error}") from None


@lru_cache(1)
def _item_rows(bundle: Path, manifest_sha256: str) -> ItemRows:
    """Of one bundle at a time: a process that makes many parts loads the encoder once."""
    return ItemRows(open_verified(bundle, manifest_sha256))
