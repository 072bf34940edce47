"""A bundle whose rows have no counts or histories, for a service that receives all events itself."""

import shutil
from pathlib import Path

import numpy as np

from msd.contract.bundle import ROWS, file_entries, new_bundle, open_bundle, write_manifest
from msd.contract.row_file import RowFile
from msd.contract.row_writer import write_row_file
from msd.contract.rows import RowContents, RowSide, has_semantic
from msd.contract.state import Impression

_SIDES: tuple[RowSide, ...] = ("user", "item")


def bare_bundle(folder: Path, out: Path, as_of: float) -> Path:
    """Write the bundle in `folder` to `out`, with counts and histories that are empty as of `as_of` (Unix seconds)."""
    bundle = open_bundle(folder)
    with new_bundle(out) as temporary:
        for path in bundle.folder.iterdir():
            if path.is_file() and path.name in bundle.manifest.files:
                shutil.copy(path, temporary / path.name)
        for side in _SIDES:
            file = RowFile.of(bundle, side)
            codec = file.codec
            ids, packed = zip(*file.scan(0, file.count), strict=True)
            records = codec.unpack(packed).records
            nothing = np.zeros(len(ids))
            contents = RowContents(
                records["categorical"],
                records["numeric"],
                records["semantic"].astype(np.float32),
                has_semantic(records),
                nothing,
                nothing,
                nothing + as_of,
            )
            histories: list[list[Impression]] = [[]] * len(ids) if side == "user" else []
            (temporary / ROWS[side]).unlink()
            bare = codec.pack(contents, float(records["written_at"].max()))
            write_row_file(temporary / ROWS[side], codec, bundle.bundle_id, list(ids), bare, histories)
        write_manifest(temporary, bundle.manifest.model_copy(update={"files": file_entries(temporary)}))
    return out
