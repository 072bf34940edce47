"""The benchmark of rows finds its own rows, and writes its files once."""

from pathlib import Path

import numpy as np

from lab.bench import row_lookup
from lab.bench.row_lookup import row_lookup_figures
from msd.contract.row_file import RowFile
from msd.contract.rows import RowCodec


def test_figures_of_small_files(tmp_path: Path) -> None:
    steps: list[str] = []
    found = row_lookup_figures(tmp_path, steps.append, items=3_000, few=1_000)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    row_lookup_figures(tmp_path, steps.append, items=3_000, few=1_000)

    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written
    assert steps.count("looking up") == 2
    assert steps.count("writing 3,000 rows") == 1
    # A slot of eight bytes for every .55 rows, and four bytes for every block of 4,096.
    assert 14.5 < found["index_bytes_per_item"] < 15
    assert all(found[name] > 0 for name in ("lookup_ratio", "lookup_ratio_10m", "start_s_10m", "lookup_us", "mget_us"))
    assert 0 < found["touched_ids"] <= 3_000


def test_rows_are_found_by_their_ids(tmp_path: Path) -> None:
    codec = RowCodec(row_lookup._schema(), "item", row_lookup._BUNDLE_ID)
    row_lookup._write(tmp_path / "rows", codec, 70_000)
    file = RowFile(tmp_path / "rows", codec, row_lookup._BUNDLE_ID)
    numbers = [0, 1, 65_536, 65_537, 69_999]
    rows = file.get([f"item-{number:08d}" for number in numbers])

    assert file.count == 70_000
    assert rows.found.all()
    assert np.array_equal(rows.records["impressions"], [number % 65_536 for number in numbers])
