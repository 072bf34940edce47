"""A delta: a folder with the rows that changed between two exports of a bundle, and the removed IDs.

Both exports have the same bundle_id, so any service of it can apply the new rows. Knows files, not where rows go.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from msd.contract.bundle import ROWS, Bundle, FileEntry, Proof
from msd.contract.errors import BundleError
from msd.contract.files import owned_folder, read_small, sha256_file, write_bytes_atomic
from msd.contract.row_file import RowFile
from msd.contract.row_writer import write_row_file
from msd.contract.rows import ROW_SIDES, RowCodec, RowSide
from msd.contract.schema import FeatureSchema
from msd.contract.sealed import SelfHashed, parse_sealed

DELTA = "delta.json"
REMOVED = "removed.json"
_FILES = (*ROWS.values(), REMOVED)
_CHUNK = 10_000
_MAX_MANIFEST_BYTES = 64 * 2**20
_REMOVED = TypeAdapter(dict[RowSide, list[str]])
_DIGEST = r"^[0-9a-f]{64}$"


class DeltaManifest(SelfHashed):
    """Manifest of a delta, from the rows with digest `base` to those with digest `result`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format_version: Literal[1] = 1
    bundle_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    base: Annotated[str, Field(pattern=_DIGEST)]
    result: Annotated[str, Field(pattern=_DIGEST)]
    feature_schema: FeatureSchema
    files: dict[str, FileEntry]
    sha256: str = Field(default="", description="Of this manifest's JSON with this field empty.")


class Delta(NamedTuple):
    """A verified delta: changed and new rows by side, and IDs that no longer have a row."""

    manifest: DeltaManifest
    rows: Mapping[RowSide, RowFile]
    removed: Mapping[RowSide, Sequence[str]]


def rows_digest(bundle: Bundle) -> str:
    """Return a digest of a bundle's rows."""
    return hashlib.sha256("".join(bundle.manifest.files[ROWS[side]].sha256 for side in ROW_SIDES).encode()).hexdigest()


def write_delta(old: Bundle, new: Bundle, folder: Path) -> Delta:
    """Write the delta from the rows of `old` to those of `new`; write times do not count.

    Raises BundleError if the bundles differ, or `folder` exists.
    """
    if old.bundle_id != new.bundle_id:
        raise BundleError(
            f"{new.folder} is bundle {new.bundle_id}, {old.folder} is {old.bundle_id}; their rows do not mix:"
            " publish the new one whole"
        )
    if folder.exists():
        raise BundleError(f"{folder}: exists; give a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with owned_folder(folder.parent, f".{folder.name}.") as own:
        (temporary := own / "new").mkdir()
        removed = {side: _write_side(old, new, side, temporary / ROWS[side]) for side in ROW_SIDES}
        write_bytes_atomic(temporary / REMOVED, _REMOVED.dump_json(removed))
        manifest = DeltaManifest(
            bundle_id=new.bundle_id,
            base=rows_digest(old),
            result=rows_digest(new),
            feature_schema=new.schema,
            files={
                name: FileEntry(sha256=sha256_file(temporary / name), size=(temporary / name).stat().st_size)
                for name in _FILES
            },
        )
        write_bytes_atomic(temporary / DELTA, manifest.sealed().model_dump_json(indent=2).encode())
        temporary.chmod(0o755)
        os.rename(temporary, folder)
    return open_delta(folder)


def open_delta(folder: Path, *, proof: Proof | None = None) -> Delta:
    """Open the delta in `folder`, and hash its files in full. Raises BundleError if anything is missing or changed."""
    content = read_small(folder / DELTA, _MAX_MANIFEST_BYTES, BundleError, "; not a folder written by `msd delta`")
    if proof is not None:
        proof(folder / DELTA, content)
    manifest = parse_sealed(folder / DELTA, content, DeltaManifest, BundleError)
    if sorted(manifest.files) != sorted(_FILES):
        raise BundleError(f"{folder / DELTA}: must list {', '.join(_FILES)}")
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise BundleError(f"{path}: missing; copy the delta again")
        if path.stat().st_size != entry.size or sha256_file(path) != entry.sha256:
            raise BundleError(f"{path}: is not what {DELTA} says; it was changed or damaged: copy the delta again")
    codecs = [RowCodec(manifest.feature_schema, side, manifest.bundle_id) for side in ROW_SIDES]
    rows = {one.side: RowFile(folder / ROWS[one.side], one, manifest.bundle_id) for one in codecs}
    try:
        removed = _REMOVED.validate_json((folder / REMOVED).read_bytes())
    except ValidationError:
        removed = {}
    if set(removed) != set(ROW_SIDES):
        raise BundleError(f"{folder / REMOVED}: does not list the removed ids of each side, {' and '.join(ROW_SIDES)}")
    return Delta(manifest, rows, removed)


def _write_side(old: Bundle, new: Bundle, side: RowSide, path: Path) -> list[str]:
    """Write the changed rows, and return the removed IDs."""
    before, after = (RowFile.of(one, side) for one in (old, new))
    codec = after.codec
    changed = [(one, row) for one, row, was in _beside(after, before) if was is None or not _alike(codec, row, was)]
    rows = codec.unpack([row for _, row in changed])
    if rows.damaged:
        raise BundleError(
            f"{new.path(ROWS[side])}: {rows.damaged} rows are damaged or too long; export the bundle again"
        )
    write_row_file(path, codec, new.bundle_id, [one for one, _ in changed], rows.records, rows.histories)
    return [one for one, _, now in _beside(before, after) if now is None]


def _beside(file: RowFile, other: RowFile) -> Iterator[tuple[str, bytes, bytes | None]]:
    """Yield each ID and row of a file, and the other file's row of that ID."""
    for start in range(0, file.count, _CHUNK):
        scanned = file.scan(start, start + _CHUNK)
        others = other.raw([one for one, _ in scanned])
        yield from ((one, row, theirs) for (one, row), theirs in zip(scanned, others, strict=True))


def _alike(codec: RowCodec, one: bytes, other: bytes) -> bool:
    """Return whether two rows are equal except for their write time and checksum."""
    if one == other:
        return True
    fields, size = codec.dtype.fields, codec.dtype.itemsize
    assert fields is not None, "records have fields"
    at, end = fields["written_at"][1], fields["checksum"][1]
    return (one[:at], one[at + 8 : end], one[size:]) == (other[:at], other[at + 8 : end], other[size:])
