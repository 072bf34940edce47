"""A catalogue: item shards in, one part of rows per shard out, made by processes of this machine or any other engine.
An interrupted run resumes with missing parts.

Knows which parts are due and that no ID is in two of them; not how a row is made.
"""

import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from functools import lru_cache
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from secrets import token_hex
from threading import Thread
from typing import NamedTuple

import numpy as np

from msd.contract.bundle import Bundle, open_verified
from msd.contract.files import sha256_file
from msd.contract.rows import has_semantic
from native.columns import hash_texts
from operations.catalogue.manifest import CatalogueError, PartEntry, write_manifest
from operations.catalogue.parquet import SUFFIX, PartAbout, new_part, read_about, read_ids, read_shard
from service.catalogue.item_rows import ID, ItemRows, WrongValue


class ShardJob(NamedTuple):
    """A shard, its part, and the bundle, which was verified under its manifest's hash. run: marks unfinished files."""

    shard: Path
    part: Path
    bundle: Path
    manifest_sha256: str
    bundle_id: str
    run: str


class Made(NamedTuple):
    """A part: its number of rows, of rows with a vector, and whether it existed already."""

    name: str
    rows: int
    vectors: int
    size: int
    sha256: str
    was_there: bool


MakeParts = Callable[[Sequence[ShardJob]], Generator[Made, None, None]]
Progress = Callable[[int, int], None]
"""Called with the number of finished parts and of all parts."""


class Finished(NamedTuple):
    """Result of a run."""

    bundle_id: str
    parts: int
    parts_made: int
    rows: int
    vectors: int


def make_catalogue(items: Path, bundle: Bundle, out: Path, make_parts: MakeParts, progress: Progress) -> Finished:
    """Make missing parts in `out`, and seal the catalogue. Raises the first MsdError. However it ends, no part is
    half-made."""
    run = token_hex(8)
    jobs = _jobs(items, bundle, out, run)
    progress(0, len(jobs))
    made: list[Made] = []
    try:
        with closing(make_parts(jobs)) as making:
            for part in making:
                made.append(part)
                progress(len(made), len(jobs))
    finally:
        # A worker may have been killed.
        for half_made in out.glob(f".*.{run}*"):
            half_made.unlink(missing_ok=True)
    _refuse_twins(out, made)
    parts = {part.name: PartEntry(sha256=part.sha256, size=part.size, rows=part.rows) for part in made}
    write_manifest(out, bundle.bundle_id, bundle.schema, parts)
    new, vectors = sum(not part.was_there for part in made), sum(part.vectors for part in made)
    return Finished(bundle.bundle_id, len(made), new, sum(part.rows for part in made), vectors)


def _jobs(items: Path, bundle: Bundle, out: Path, run: str) -> list[ShardJob]:
    if items.resolve() == out.resolve():
        raise CatalogueError(f"{out}: holds the items; give another folder for their rows")
    shards = sorted(items.glob(f"*{SUFFIX}"))
    if not shards:
        raise CatalogueError(f"{items}: {f'holds no *{SUFFIX}' if items.is_dir() else 'not a folder of Parquet files'}")
    if out.exists() and not out.is_dir():
        raise CatalogueError(f"{out}: is a file; give a folder")
    strange = {path.name for path in out.glob(f"*{SUFFIX}")} - {path.name for path in shards}
    if strange:
        raise CatalogueError(f"{out / min(strange)}: belongs to no shard of {items}; remove it, or use another folder")
    folder, sealed = bundle.folder.resolve(), bundle.manifest.sha256
    return [
        ShardJob(shard.resolve(), out.resolve() / shard.name, folder, sealed, bundle.bundle_id, run) for shard in shards
    ]


def _refuse_twins(out: Path, made: Sequence[Made]) -> None:
    """Raise CatalogueError if two parts share an ID. Needs 8 bytes of memory per ID, briefly twice that."""
    if len(made) < 2:
        return
    hashes = np.concatenate([hash_texts(ids) for _, ids in _all_ids(out, made)] or [np.empty(0, np.uint64)])
    hashes.sort()
    twice = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    if not len(twice):
        return
    seen: dict[str, str] = {}
    for name, ids in _all_ids(out, made):
        for place in np.flatnonzero(np.isin(hash_texts(ids), twice)).tolist():
            if ids[place] in seen:
                raise CatalogueError(f"the id {ids[place]!r} occurs twice, in {seen[ids[place]]} and in {name}")
            seen[ids[place]] = name


def _all_ids(out: Path, made: Sequence[Made]) -> Iterator[tuple[str, list[str]]]:
    for part in sorted(made):
        yield from ((part.name, ids) for ids in read_ids(out / part.name))


def make_part(job: ShardJob) -> Made:
    """Make the part, unless it exists for this shard. Raises an MsdError that names file and row."""
    try:
        source = sha256_file(job.shard)
    except OSError as error:
        raise CatalogueError(f"{job.shard}: {error.strerror or error}") from None
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


def _make(job: ShardJob, source: str) -> PartAbout:
    rows = _item_rows(job.bundle, job.manifest_sha256)
    seen: set[str] = set()
    start = vectors = 0
    with new_part(job.part, rows.size, job.run) as part:
        for columns in read_shard(job.shard, rows.features, rows.reads_words):
            try:
                ids, records = rows.pack(columns)
                for place, item_id in enumerate(ids):
                    if item_id in seen:
                        raise WrongValue(place, f"{ID} {item_id!r} occurs twice")
                    seen.add(item_id)
            except WrongValue as error:
                raise CatalogueError(f"{job.shard}, row {start + error.place + 1}: {error.what}") from None
            vectors += int(np.count_nonzero(has_semantic(records)))
            part.write(ids, records.tobytes())
            start += len(ids)
        about = PartAbout(bundle_id=job.bundle_id, source_sha256=source, rows=len(seen), vectors=vectors)
        part.tell(about)
    return about


@lru_cache(1)
def _item_rows(bundle: Path, manifest_sha256: str) -> ItemRows:
    """Cached for one bundle, so that a process loads the encoder once for many parts."""
    return ItemRows(open_verified(bundle, manifest_sha256))


def make_here(jobs: Sequence[ShardJob], processes: int) -> Generator[Made, None, None]:
    """Yield parts as they are made. After the first error no other part is begun."""
    if min(processes, len(jobs)) <= 1:
        yield from map(make_part, jobs)
        return
    others = active_children()
    # Not forked: libraries with threads do not survive a fork.
    pool = ProcessPoolExecutor(min(processes, len(jobs)), mp_context=get_context("spawn"), initializer=_end_with_others)
    try:
        for future in as_completed([pool.submit(make_part, job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool:
        raise CatalogueError(
            "a process ended before its part was made; was there too little memory? Run this again, with fewer"
            " --processes perhaps, to resume"
        ) from None
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        # Parts in progress are abandoned.
        for process in active_children():
            if process not in others:
                process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_others() -> None:
    """Set up a worker to leave interrupts, which all processes of a terminal get, to its parent, and to end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None, "a process of the pool was started by another"

    def end_after_parent() -> None:
        parent.join()
        os._exit(1)

    Thread(target=end_after_parent, daemon=True).start()
