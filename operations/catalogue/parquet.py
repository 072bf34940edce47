"""The catalogue's Parquet files (pyarrow): shards are read, parts of IDs and rows written and read, in batches. Does
not know what a row contains.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from msd.contract.bundle import WORDS
from msd.contract.files import atomic_file
from operations.catalogue.manifest import CatalogueError
from service.catalogue.item_rows import ID, KNOWLEDGE, TEXT

SUFFIX = ".parquet"
_ROW = "row"
_ABOUT = b"msd.catalogue"
_BATCH = 8_192
_UNREADABLE = (OSError, pa.ArrowException, UnicodeDecodeError)


class PartAbout(BaseModel):
    """Metadata of a part: its bundle and its shard."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format_version: Literal[1] = 1
    bundle_id: str
    source_sha256: str
    rows: int
    vectors: int


def read_shard(path: Path, features: Sequence[str], reads_words: bool) -> Iterator[dict[str, list[Any]]]:
    """Yield batches of a shard's rows by column, in order. Raises CatalogueError if it is damaged, or has other
    columns."""
    with _opened(path) as file:
        names = file.schema_arrow.names
        own = [ID, TEXT, *([KNOWLEDGE] if reads_words else [])]
        if ID not in names:
            raise CatalogueError(f"{path}: has no column {ID!r}; it has: {', '.join(names) or 'none'}")
        if len(set(names)) != len(names):
            raise CatalogueError(f"{path}: a column occurs twice among: {', '.join(names)}")
        if unknown := [name for name in names if name not in (*own, *features)]:
            if unknown[0] == KNOWLEDGE:
                raise CatalogueError(
                    f"{path}: the bundle has no file for a teacher's words ({WORDS}): distil with knowledge and export"
                    f" again, or leave out the column {KNOWLEDGE!r}"
                )
            raise CatalogueError(
                f"{path}: the bundle knows no item feature {unknown[0]!r}; there are: {', '.join((*own, *features))};"
                " rename the column, or leave it out"
            )
        yield from _batches(path, file)


@contextmanager
def new_part(path: Path, size: int, mark: str) -> Iterator["PartWriter"]:
    """Write a part with rows of `size` bytes, which gets its name when the block ends without an error. `mark`: as of
    `atomic_file`."""
    schema = pa.schema([(ID, pa.string()), (_ROW, pa.binary(size))])
    with (
        atomic_file(path, mark) as file,
        pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True, use_dictionary=False) as writer,
    ):
        yield PartWriter(writer, schema)


class PartWriter:
    """Writes a part; its metadata comes last."""

    def __init__(self, writer: Any, schema: Any) -> None:  # noqa: ANN401 - pyarrow has no types
        self._writer = writer
        self._schema = schema

    def write(self, ids: Sequence[str], rows: bytes) -> None:
        """Write IDs, and their concatenated rows."""
        packed = pa.FixedSizeBinaryArray.from_buffers(
            self._schema.field(_ROW).type, len(ids), [None, pa.py_buffer(rows)]
        )
        self._writer.write_table(pa.table([pa.array(ids, pa.string()), packed], schema=self._schema))

    def tell(self, about: PartAbout) -> None:
        """Set the part's metadata."""
        self._writer.add_key_value_metadata({_ABOUT: about.model_dump_json().encode()})


def read_about(path: Path) -> PartAbout:
    """Return a part's metadata. Raises CatalogueError for another file."""
    with _opened(path) as file:
        metadata: Mapping[bytes, bytes] = file.metadata.metadata or {}
    try:
        return PartAbout.model_validate_json(metadata[_ABOUT])
    except (KeyError, ValidationError):
        raise CatalogueError(f"{path}: not a part of a catalogue; use another folder, or remove it") from None


def read_part(path: Path) -> Iterator[list[tuple[str, bytes]]]:
    """Yield the IDs and rows of a part. Raises CatalogueError."""
    left = read_about(path).rows
    with _opened(path) as file:
        for columns in _batches(path, file):
            left -= len(columns[ID])
            yield list(zip(columns[ID], columns[_ROW], strict=True))
    if left:
        raise CatalogueError(f"{path}: damaged: its contents differ from its row count")


def read_ids(path: Path) -> Iterator[list[str]]:
    """Yield the IDs of a part, without its rows."""
    with _opened(path) as file:
        yield from (columns[ID] for columns in _batches(path, file, [ID]))


def _batches(path: Path, file: Any, columns: list[str] | None = None) -> Iterator[dict[str, list[Any]]]:  # noqa: ANN401
    start = 0
    try:
        for batch in file.iter_batches(_BATCH, columns=columns):
            yield batch.to_pydict()
            start += batch.num_rows
    except _UNREADABLE as error:
        raise CatalogueError(f"{path}: damaged at row {start + 1} or behind: {error}") from None
    if start != file.metadata.num_rows:
        raise CatalogueError(f"{path}: damaged: it holds {start} rows and says {file.metadata.num_rows}")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except _UNREADABLE as error:
        raise CatalogueError(f"{path}: not readable as Parquet: {error}") from None
    with file:
        yield file
