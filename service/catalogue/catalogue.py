"""A catalogue: a folder of shards of items becomes a folder of parts of rows, by whoever makes parts.

Knows which parts are due and that no id is in two of them; not how a row is made.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

import numpy as np

from msd.contract.bundle import Bundle
from msd.contract.hashing import hash_strings
from service.catalogue.errors import CatalogueError
from service.catalogue.manifest import PartEntry, write_manifest
from service.catalogue.parquet import SUFFIX, read_ids
from service.catalogue.part import Job, Made

MakeParts = Callable[[Sequence[Job]], Generator[Made, None, None]]
Progress = Callable[[int, int], None]
"""Called with parts that are there, and parts in all."""


class Finished(NamedTuple):
    """What a run has left."""

    bundle_id: str
    parts: int
    parts_made: int
    rows: int
    vectors: int


def make_catalogue(items: Path, bundle: Bundle, out: Path, make_parts: MakeParts, progress: Progress) -> Finished:
    """Makes what is missing in `out`, and seals it. Raises an MsdError at the first thing that is wrong.

    However it ends, no part is left half-made.
    """
    run = token_hex(8)
    jobs = _jobs(items, bundle, out, run)
    progress(0, len(jobs))
    made: list[Made] = []
    try:
        with closing(make_parts(jobs)) as making:
            for one in making:
                made.append(one)
                progress(len(made), len(jobs))
    finally:
        # Whoever makes parts may have been killed.
        for half_made in out.glob(f".*.{run}*"):
            half_made.unlink(missing_ok=True)
    _refuse_twins(out, made)
    parts = {one.name: PartEntry(sha256=one.sha256, size=one.size, rows=one.rows) for one in made}
    write_manifest(out, bundle.bundle_id, bundle.schema, parts)
    new = sum(not one.was_there for one in made)
    return Finished(bundle.bundle_id, len(made), new, sum(one.rows for one in made), sum(one.vectors for one in made))


def _jobs(items: Path, bundle: Bundle, out: Path, run: str) -> list[Job]:
    if items.resolve() == out.resolve():
        raise CatalogueError(f"{out}: holds the items; give another folder for their rows")
    shards = sorted(items.glob(f"*{SUFFIX}"))
    if not shards:
        raise CatalogueError(f"{items}: {f'holds no *{SUFFIX}' if items.is_dir() else 'is no folder of Parquet files'}")
    if out.exists() and not out.is_dir():
        raise CatalogueError(f"{out}: is a file; give a folder")
    strange = {path.name for path in out.glob(f"*{SUFFIX}")} - {path.name for path in shards}
    if strange:
        raise CatalogueError(f"{out / min(strange)}: is of no shard of {items}; remove it, or give another folder")
    return [
        Job(
            shard.resolve(),
            out.resolve() / shard.name,
            bundle.folder.resolve(),
            bundle.manifest.sha256,
            bundle.bundle_id,
            run,
        )
        for shard in shards
    ]


def _refuse_twins(out: Path, made: Sequence[Made]) -> None:
    """Raises CatalogueError if two parts have an id in common. Takes 8 bytes of memory an id, twice for a while."""
    if len(made) < 2:
        return
    hashes = np.concatenate([hash_strings(ids) for _, ids in _all_ids(out, made)] or [np.empty(0, np.uint64)])
    hashes.sort()
    twice = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    if not len(twice):
        return
    seen: dict[str, str] = {}
    for name, ids in _all_ids(out, made):
        for place in np.flatnonzero(np.isin(hash_strings(ids), twice)).tolist():
            if ids[place] in seen:
                raise CatalogueError(f"the id {ids[place]!r} occurs twice, in {seen[ids[place]]} and in {name}")
            seen[ids[place]] = name


def _all_ids(out: Path, made: Sequence[Made]) -> Iterator[tuple[str, list[str]]]:
    for one in sorted(made):
        yield from ((one.name, ids) for ids in read_ids(out / one.name))
