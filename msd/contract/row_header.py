"""The header of a rows file: its bundle and side, and the positions of its sections.

Layout: magic, header length and checksum, JSON header padded to 64 bytes, the sections in the order of `RowHeader`.
"""

import json
import struct
import zlib
from itertools import accumulate
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from msd.contract.checked_file import BLOCK, OpenFile, SectionPlace
from msd.contract.errors import BundleError
from msd.contract.id_index import START, WORD

_MAGIC = b"MSDROWS4"
_PREFIX = struct.Struct("<8sII")
_ALIGNMENT = 64
_MAX_HEADER = 65_536


class RowHeader(BaseModel):
    model_config = ConfigDict(extra="forbid")

    bundle_id: str
    side: str
    count: Annotated[int, Field(ge=0, lt=2**32 - 1)]
    record_dtype: str
    seed: Annotated[int, Field(ge=0, lt=2**64)]
    width: Annotated[int, Field(ge=WORD, multiple_of=WORD)]
    starts: SectionPlace
    row_starts: SectionPlace
    rows: SectionPlace
    checksums: SectionPlace

    @model_validator(mode="after")
    def _sections_follow_each_other(self) -> Self:
        sections = (self.starts, self.row_starts, self.rows, self.checksums)
        starts = list(accumulate((section.size for section in sections), initial=0))
        if [section.start for section in sections] != starts[:-1] or min(section.size for section in sections) < 0:
            raise ValueError("sections overlap")
        if self.starts.size % START.itemsize or self.starts.size < 2 * START.itemsize:
            raise ValueError("the index has no bucket")
        # Rows of one length need no starts.
        if self.row_starts.size not in (0, start_type(self.rows.size).itemsize * (self.count + 1)):
            raise ValueError("the rows do not fit the count")
        if self.checksums.size != 4 * -(-self.checksums.start // BLOCK):
            raise ValueError("there is not one checksum a block")
        return self

    def pack(self) -> bytes:
        """Return everything before the sections."""
        header = self.model_dump_json().encode()
        # Unaligned starts would be copied on each look-up.
        header += b" " * (-(_PREFIX.size + len(header)) % _ALIGNMENT)
        return _PREFIX.pack(_MAGIC, len(header), zlib.crc32(header)) + header


def start_type(size: int) -> np.dtype[Any]:
    """Return the integer type of starts in a section of this size: ten million rows do not need eight bytes each."""
    return np.dtype("<u4" if size < 2**32 else "<u8")


def read_header(file: OpenFile) -> tuple[RowHeader, bytes]:
    """Read the header of a file, and all bytes before its sections. Raises BundleError if it is not a rows file."""
    prefix = file.read(0, _PREFIX.size)
    if len(prefix) < _PREFIX.size:
        raise BundleError(f"{file.path}: not a rows file; it ends after {len(prefix)} bytes")
    magic, length, checksum = _PREFIX.unpack(prefix)
    if magic != _MAGIC or length > _MAX_HEADER:
        raise BundleError(f"{file.path}: not a rows file of this format ({_MAGIC.decode()}); export again")
    header = file.read(_PREFIX.size, length)
    if zlib.crc32(header) != checksum:
        raise BundleError(f"{file.path}: the header is damaged; copy the bundle again")
    try:
        return RowHeader.model_validate(json.loads(header)), prefix + header
    except (ValidationError, ValueError, RecursionError) as error:
        raise BundleError(f"{file.path}: the header is damaged") from error
