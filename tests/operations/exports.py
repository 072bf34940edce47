"""A bundle exported again with a few other rows."""

from collections.abc import Mapping
from pathlib import Path
from zlib import crc32

import numpy as np

from msd.contract.bundle import ROWS, Bundle, open_bundle
from msd.contract.row_file import RowFile
from msd.contract.row_writer import write_row_file
from msd.contract.rows import ROW_SIDES, RowCodec, RowSide, unpack_history
from tests.bundles.factory import AT, build_bundle, reseal

Rows = dict[RowSide, dict[str, bytes]]


def rows_of(bundle: Bundle) -> Rows:
    found: Rows = {}
    for side in ROW_SIDES:
        codec = RowCodec(bundle.schema, side, bundle.bundle_id)
        file = RowFile(bundle.path(ROWS[side]), codec, bundle.bundle_id)
        found[side] = dict(file.scan(0, file.count))
    return found


def exported_again(
    folder: Path, clicks: Mapping[str, int], gone: tuple[str, ...] = (), later_s: float = 3_600
) -> Bundle:
    """The plain bundle as a later export: all rows written later, some with other clicks, some gone, one item new."""
    bundle = build_bundle(folder)
    for side, rows in rows_of(bundle).items():
        codec = RowCodec(bundle.schema, side, bundle.bundle_id)
        size = codec.dtype.itemsize
        kept = [row for row in rows if row not in gone] + (["new"] if side == "item" and gone else [])
        raw = [rows.get(one) or rows["i1"] for one in kept]
        records = np.frombuffer(bytearray(b"".join(row[:size] for row in raw)), codec.dtype)
        for place, one in enumerate(kept):
            records["clicks"][place] += clicks.get(one, 0)
        records["written_at"] = AT + later_s
        records["checksum"] = [crc32(record.tobytes()[:-4]) for record in records]
        histories = [unpack_history(row[size:]) or () for row in raw] if side == "user" else []
        write_row_file(folder / ROWS[side], codec, bundle.bundle_id, kept, records, histories)
    reseal(folder)
    return open_bundle(folder)
