"""Speed of row look-ups by ID: against Redis, and among ten million rows against a hundred thousand.

Writes row files to a folder, and looks rows up from a fresh process, as a service does. Does not know models.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray
from redis import Redis

from lab.bench.redis import redis_server
from loadtest.traffic import zipf
from msd.contract.checked_file import OpenFile
from msd.contract.errors import BundleError
from msd.contract.row_file import RowFile
from msd.contract.row_header import read_header
from msd.contract.row_writer import write_row_file
from msd.contract.rows import Records, RowCodec, RowContents
from msd.contract.schema import Categorical, FeatureSchema, Numeric, Semantic
from msd.contract.schema import Sequence as History
from service.redis.keys import key_prefix

IDS = 200
"""Number of IDs per look-up."""
_BUNDLE_ID = "0123456789abcdef" * 2
_POOL = 65_536
_REQUESTS = 250
_TURN = 25
_ROUNDS = 9
_CHUNK = 5_000


def row_lookup_figures(
    folder: Path, progress: Callable[[str], None], items: int = 10_000_000, few: int = 100_000
) -> dict[str, float]:
    """Write a large and a small file if `folder` lacks them (3 GB and a minute for ten million), and measure look-ups
    of 200 IDs; ratios are medians over turns of one run.

    `lookup_ratio`: time of an MGET over loopback, without decoding its values, ÷ time of a look-up in the small file.
    `lookup_ratio_10m`: the large file's time ÷ the small one's, with IDs drawn by Zipf's law. `start_s_10m`: from
    opening the large file to its first rows, after dropping it from the page cache. `index_bytes_per_item`: slots and
    checksums. `resident_mb`: growth of the process's memory for `touched_ids` IDs of the large file, which has
    `file_mb` in all.
    """
    codec = RowCodec(_schema(), "item", _BUNDLE_ID)
    large, small = (folder / f"items-{count}.rows" for count in (items, few))
    for path, count in ((small, few), (large, items)):
        if not path.exists():
            progress(f"writing {count:,} rows")
            _write(path, codec, count)
    with redis_server() as url:
        progress(f"copying {few:,} rows into Redis")
        _fill(url, RowFile(small, codec, _BUNDLE_ID))
        progress("looking up")
        found = _in_fresh_process(large, small, url)
    opened = OpenFile(large)
    header, _ = read_header(opened)
    index = header.slots.size + header.checksums.size
    return found | {"index_bytes_per_item": round(index / items, 2), "file_mb": round(opened.size / 2**20, 1)}


class Ids(Sequence[str]):
    """IDs `item-00000000` and so on, made on demand."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        return list(map(_id, range(self._count)[place])) if isinstance(place, slice) else _id(place)


def _id(number: int) -> str:
    return f"item-{number:08d}"


def _schema() -> FeatureSchema:
    """Return a schema with rows of 231 bytes: a vector of 64, ten categories, three numbers."""
    return FeatureSchema(
        fields=(
            *(Categorical(name=f"c{number}", side="item", buckets=1_000) for number in range(10)),
            *(Numeric(name=f"n{number}", side="item") for number in range(3)),
            Semantic(name="text", side="item", dim=64),
            History(name="history", length=50),
        )
    )


def _write(path: Path, codec: RowCodec, count: int) -> None:
    """Write a row file whose contents repeat after `_POOL` rows."""
    rng = np.random.default_rng(count)
    pool = codec.pack(
        RowContents(
            categorical=rng.integers(0, 1_000, (_POOL, 10)).astype(np.int32),
            numeric=rng.standard_normal((_POOL, 6)).astype(np.float32),
            semantic=rng.standard_normal((_POOL, 64)).astype(np.float32),
            present=np.ones(_POOL, bool),
            impressions=np.arange(_POOL, dtype=np.float64),
            clicks=np.zeros(_POOL),
            as_of=np.full(_POOL, 1.7e9),
        ),
        1.7e9,
    )

    def some(rows: NDArray[np.int64]) -> Records:
        # As plain bytes, which numpy takes much faster than fields.
        return pool.view(f"V{pool.dtype.itemsize}").take(rows % _POOL).view(pool.dtype)

    write_row_file(path, codec, _BUNDLE_ID, Ids(count), some, [])


def _fill(url: str, file: RowFile) -> None:
    """Copy the rows to Redis."""
    prefix = key_prefix(_BUNDLE_ID, "item")
    with Redis.from_url(url) as redis:
        for start in range(0, file.count, _CHUNK):
            redis.mset({prefix + item_id: row for item_id, row in file.scan(start, start + _CHUNK)})


def _in_fresh_process(large: Path, small: Path, redis_url: str) -> dict[str, float]:
    ended = subprocess.run(
        [sys.executable, "-m", "lab.bench.row_lookup", str(large), str(small), redis_url],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(ended.stdout)
    return found


def _look_up(large_path: Path, small_path: Path, redis_url: str) -> dict[str, float]:
    codec = RowCodec(_schema(), "item", _BUNDLE_ID)
    of_large, of_small = (_zipf(read_header(OpenFile(path))[0].count) for path in (large_path, small_path))
    _forget_cached(large_path)
    before, started = _resident_mb(), time.perf_counter()
    large = RowFile(large_path, codec, _BUNDLE_ID)
    first = large.get(of_large[0])
    start_s = time.perf_counter() - started
    if not first.found.all():
        raise BundleError(f"{large_path}: a written ID is not found")
    for ids in of_large:
        large.get(ids)
    resident_mb = _resident_mb() - before
    small = RowFile(small_path, codec, _BUNDLE_ID)
    with Redis.from_url(redis_url) as redis:
        prefix = key_prefix(_BUNDLE_ID, "item")

        def mget(ids: list[str]) -> object:
            return redis.mget([prefix + item_id for item_id in ids])

        timed = [(large.get, of_large), (small.get, of_small), (mget, of_small)]
        for get, requests in timed:
            _each_us(get, requests)
        # Short turns, so that other load on the machine disturbs neighbours alike.
        turns = [slice(start, start + _TURN) for _ in range(_ROUNDS) for start in range(0, _REQUESTS, _TURN)]
        times = np.array([[_each_us(get, requests[turn]) for get, requests in timed] for turn in turns])
    in_large, in_small, by_mget = times.T
    return {
        "lookup_ratio": round(float(np.median(by_mget / in_small)), 2),
        "start_s_10m": round(start_s, 3),
        "lookup_ratio_10m": round(float(np.median(in_large / in_small)), 2),
        "resident_mb": round(resident_mb, 1),
        "touched_ids": len({item_id for ids in of_large for item_id in ids}),
        "lookup_us": round(float(np.median(in_small)), 1),
        "mget_us": round(float(np.median(by_mget)), 1),
    }


def _each_us(get: Callable[[list[str]], object], requests: list[list[str]]) -> float:
    started = time.perf_counter()
    for ids in requests:
        get(ids)
    return 1e6 * (time.perf_counter() - started) / len(requests)


def _zipf(count: int) -> list[list[str]]:
    """Return requests for IDs by Zipf's law. Rows are placed by hash, so they lie all over the file."""
    ranks = np.random.default_rng(count).choice(count, (_REQUESTS, IDS), p=zipf(count))
    return [[_id(rank) for rank in row] for row in ranks.tolist()]


def _forget_cached(path: Path) -> None:
    """Ask the kernel to drop the file from its page cache, so that a start reads from disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _resident_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_look_up(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])))
