"""Publishes a catalogue's rows to Redis, beside those of the bundle's publication, which stay unchanged.

Every row is valid by itself, so a service may see some before others. An interrupted run resumes.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from msd.contract.rows import RowCodec
from operations.catalogue.manifest import CatalogueError, CatalogueManifest, open_catalogue
from operations.catalogue.parquet import read_part
from operations.publish import CHUNK, Progress, held_rows, read_back
from service.redis.keys import catalogue_key, key_prefix
from service.redis.publication import Publication, PublishError, get_all, publication, set_all
from service.trust import Trust

# Rows of each part to read back.
_SAMPLE = 64


@dataclass(frozen=True)
class RowsPublished:
    """Result of a publication. `kept` are IDs whose rows have counts: those come from the export, and take
    precedence."""

    bundle_id: str
    items: int
    kept: int
    bytes: int
    resumed_at_part: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"published {self.items} items beside those of bundle {self.bundle_id}, {self.bytes} bytes"
            f" in {self.seconds} s; {self.kept} others have rows with counts, which stay"
        )


def publish_rows(folder: Path, url: str, progress: Progress, trust: Trust | None = None) -> RowsPublished:
    """Publish the catalogue in `folder`. Raises CatalogueError, or PublishError if Redis fails."""
    started = time.monotonic()
    manifest = open_catalogue(folder, proof=(trust or Trust(None)).proof)
    codec = RowCodec(manifest.feature_schema, "item", manifest.bundle_id)
    with publication(url) as running:
        if ">" in held_rows(running, manifest.bundle_id):
            raise PublishError(
                f"Redis at {running.address}: a delta of bundle {manifest.bundle_id} was interrupted; publish it again"
                " first"
            )
        first = _parts_done(running, manifest)
        done = sum(part.rows for part in list(manifest.parts.values())[:first])
        progress(done, manifest.rows)
        items = kept = size = 0
        for number, name in enumerate(list(manifest.parts)[first:], start=first + 1):
            for written, known in _copy(running, codec, manifest.bundle_id, folder / name):
                items += len(written)
                kept += known
                size += sum(map(len, written.values()))
                done += len(written) + known
                progress(done, manifest.rows)
            running.redis.set(catalogue_key(manifest.bundle_id), f"{manifest.sha256}:{number}")
        running.redis.unlink(catalogue_key(manifest.bundle_id))
        progress(done, manifest.rows)
    seconds = round(time.monotonic() - started, 3)
    return RowsPublished(manifest.bundle_id, items, kept, size, first, seconds)


def _parts_done(running: Publication, manifest: CatalogueManifest) -> int:
    """Return the number of parts that an interrupted publication of this catalogue has copied."""
    held = cast("bytes | None", running.redis.get(catalogue_key(manifest.bundle_id)))
    digest, _, number = (held or b"").decode("ascii", "replace").partition(":")
    return min(int(number), len(manifest.parts)) if digest == manifest.sha256 and number.isdecimal() else 0


def _copy(
    running: Publication, codec: RowCodec, bundle_id: str, path: Path
) -> Iterator[tuple[dict[bytes, bytes], int]]:
    """Copy one part, and read some of its rows back. Yield the written rows, and how many others stay."""
    prefix = key_prefix(bundle_id, "item").encode()
    sample: dict[bytes, bytes] = {}
    for part in read_part(path):
        for start in range(0, len(part), CHUNK):
            chunk = part[start : start + CHUNK]
            if codec.unpack([row for _, row in chunk]).damaged:
                raise CatalogueError(f"{path}: holds something that is not a row of bundle {bundle_id}")
            rows = {prefix + item_id.encode(): row for item_id, row in chunk}
            # Rows with complete counts come from an export, which knows more.
            held = codec.unpack(get_all(running.redis, list(rows)))
            for key, is_known in zip(list(rows), (held.found & (held.records["as_of"] > 0)).tolist(), strict=True):
                if is_known:
                    del rows[key]
            if rows:
                with running.redis.pipeline(transaction=False) as pipeline:
                    set_all(running.redis, pipeline, rows)
                    pipeline.execute()
                if len(sample) < _SAMPLE:
                    sample |= [next(iter(rows.items()))]
            running.renew()
            yield rows, len(chunk) - len(rows)
    read_back(running, sample)
