"""A rows file finds every row and no other; a wrong byte is found out at the latest when it is read."""

import os
import re
import struct
import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from msd.contract import id_index
from msd.contract.checked_file import BLOCK, OpenFile
from msd.contract.errors import BundleError
from msd.contract.row_file import RowFile
from msd.contract.row_header import read_header
from msd.contract.row_writer import write_row_file
from msd.contract.rows import Records
from tests.contract.examples import BUNDLE_ID, ITEMS, OTHER_ID, USERS, clicked, flip, make_records

IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
HISTORIES = [clicked("i1", "ß"), (), clicked(*["😀"] * 3)]


def write_items(path: Path, ids: Sequence[str]) -> list[bytes]:
    records = make_records(ITEMS, len(ids))
    write_row_file(path, ITEMS, BUNDLE_ID, ids, records, [])
    return [record.tobytes() for record in records]


def open_items(path: Path) -> RowFile:
    return RowFile(path, ITEMS, BUNDLE_ID)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "items.rows"


@given(st.lists(IDS, unique=True, max_size=30), st.lists(IDS, max_size=10))
def test_every_id_is_found_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], others: list[str]
) -> None:
    path = tmp_path_factory.mktemp("rows") / "items.rows"
    rows = dict(zip(ids, write_items(path, ids), strict=True))
    file = open_items(path)
    prefixed = [id_ + other for id_, other in zip(ids, others, strict=False)] + [id_ * 20 for id_ in ids]
    asked = [*others, *ids, *others[::-1], *prefixed, *(id_[:-1] for id_ in ids)]

    assert file.count == len(ids)
    # The second time, of what was verified before.
    for _ in range(2):
        assert file.raw(asked) == [rows.get(item_id) for item_id in asked]
        assert file.get(asked).found.tolist() == [item_id in rows for item_id in asked]
    assert dict(file.scan(0, file.count)) == rows


def test_many_rows_over_many_blocks_are_read_by_threads(path: Path) -> None:
    ids = [f"i{number}" for number in range(3_000)]
    rows = write_items(path, ids)
    file = open_items(path)
    begin = threading.Barrier(4)

    def read(_: int) -> list[bytes | None]:
        begin.wait(60)
        return [row for start in range(0, len(ids), 100) for row in file.raw(ids[start : start + 100])]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, range(4))) == [rows] * 4
    assert path.stat().st_size > 10 * BLOCK
    assert file.raw(ids[::-1]) == rows[::-1]
    assert not file.get([f"{item_id}x" for item_id in ids]).found.any()
    assert [row for start in range(0, 3_500, 700) for row in file.scan(start, start + 700)] == file.scan(0, 3_000)


def test_users_have_their_histories(tmp_path: Path) -> None:
    path = tmp_path / "users.rows"
    ids = ["u1", "u2", "ü3"]
    write_row_file(path, USERS, BUNDLE_ID, ids, make_records(USERS, 3), HISTORIES)
    rows = RowFile(path, USERS, BUNDLE_ID).get(["ü3", "u9", "u1", "u2", "u1"])

    assert rows.found.tolist() == [True, False, True, True, True]
    assert rows.histories == (HISTORIES[2], (), HISTORIES[0], (), HISTORIES[0])
    assert rows.damaged == 0


@given(st.lists(IDS, unique=True, min_size=1, max_size=40), st.integers(1, 6), st.integers(0, 2))
def test_rows_are_found_despite_hash_collisions(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], kinds: int, upper: int
) -> None:
    """Hashes alike in a half, or whole."""
    hash_ids = id_index.hash_ids

    def alike(encoded: id_index.Words, seed: int) -> id_index.Words:
        few = hash_ids(encoded, seed) % np.uint64(kinds)
        return (few << np.uint64(32), few, few << np.uint64(32) | few)[upper]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(id_index, "hash_ids", alike)
        path = tmp_path_factory.mktemp("rows") / "items.rows"
        rows = write_items(path, ids[::2] or ids)
        known = dict(zip(ids[::2] or ids, rows, strict=True))
        assert open_items(path).raw(ids) == [known.get(id_) for id_ in ids]


def test_ids_as_long_as_may_be(path: Path) -> None:
    ids = ["x" * 256, "x" * 255, "ü" * 256, "😀" * 256, "x"]
    rows = write_items(path, ids)
    assert open_items(path).raw([*ids, "x" * 257, "x" * 10_000]) == [*rows, None, None]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["ab", "a\0b", "\0"], r"the id 'a\\x00b' holds a NUL character"),
        (["i1", "x" * 10_000], r"the id 'x{40}'… has 10000 characters; 256 are allowed"),
        (["i1", "i2", "i1", "i3"], "an id occurs twice: 'i1'"),
    ],
    ids=["NUL", "long", "twice"],
)
def test_rejects_wrong_ids_and_writes_nothing(path: Path, ids: list[str], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        write_items(path, ids)
    assert not path.exists()


@settings(max_examples=150)
@given(st.data())
def test_rejects_any_wrong_byte(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "items.rows"
    ids = ["i1", "i2", "i3", "i4"]
    if not path.exists():
        write_items(path, ids)
        (tmp_path / "whole").write_bytes(path.read_bytes())
    whole = (tmp_path / "whole").read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != whole[place]))
    path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])

    with pytest.raises(BundleError):
        open_items(path).raw(ids)


@settings(max_examples=60)
@given(st.data())
def test_rejects_file_of_wrong_length(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "items.rows"
    write_items(path, ["i1", "i2", "i3"])
    whole = path.read_bytes()
    size = data.draw(st.integers(0, len(whole) - 1))

    for content in (whole[:size], whole + whole[:size] + b"\0"):
        path.write_bytes(content)
        with pytest.raises(BundleError):
            open_items(path)


def sections(path: Path) -> dict[str, tuple[int, int]]:
    header, raw = read_header(OpenFile(path))
    base = len(raw)
    names = ("starts", "row_starts", "rows", "checksums")
    return {name: (base + getattr(header, name).start, getattr(header, name).size) for name in names}


@pytest.mark.parametrize("place", ["starts", "row_starts", "checksums"])
def test_damaged_index_is_found_when_ids_are_looked_up(tmp_path: Path, place: str) -> None:
    path, ids = tmp_path / "users.rows", [f"u{number}" for number in range(900)]
    write_row_file(path, USERS, BUNDLE_ID, ids, make_records(USERS, 900), [clicked("i1")] * 900)
    flip(path, sections(path)[place][0] + 9)
    with pytest.raises(BundleError, match=r"block \d+ is damaged; copy the bundle again"):
        RowFile(path, USERS, BUNDLE_ID).get(ids)


def test_damaged_block_is_found_only_when_read(path: Path) -> None:
    ids = [f"i{number}" for number in range(8_000)]
    known = dict(zip(ids, write_items(path, ids), strict=True))
    start, size = sections(path)["rows"]
    flip(path, start + size - 1)  # of the last row by the order of hashes
    file = open_items(path)

    middle, row = file.scan(4_000, 4_001)[0]
    assert row == known[middle]
    with pytest.raises(BundleError, match=r"items\.rows: block \d+ is damaged"):
        file.raw(ids)
    assert file.raw([middle]) == [row]


def with_header(path: Path, header: bytes) -> None:
    """Puts another header, of the same length if it is not longer, into a file."""
    whole = path.read_bytes()
    (length,) = struct.unpack_from("<I", whole, 8)
    header = header.ljust(length)
    path.write_bytes(whole[:8] + struct.pack("<II", len(header), zlib.crc32(header)) + header + whole[16 + length :])


def with_edited_header(path: Path, old: str, new: str) -> None:
    header = path.read_bytes()[16 : 16 + struct.unpack_from("<I", path.read_bytes(), 8)[0]]
    assert old.encode() in header
    with_header(path, header.replace(old.encode(), new.encode()))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        *((header, "header is damaged") for header in (b"", b"{", b"\xff" * 9, b"[]", b"[" * 60_000)),
        (('"side"', '"what":1,"side"'), "header is damaged"),
        (('"count":2', '"count":-2'), "header is damaged"),
        (('"count":2', '"count":3'), "header is damaged"),
        (('"count":2', '"count":' + "9" * 40), "header is damaged"),
        (('"item"', '"user"'), "side is 'user', but this bundle needs 'item'"),
        ((BUNDLE_ID, OTHER_ID), "bundle_id is 'fedc"),
        (("<f2", "<f4"), "record_dtype is "),
    ],
)
def test_rejects_wrong_header(path: Path, header: bytes | tuple[str, str], message: str) -> None:
    write_items(path, ["i1", "i2"])
    if isinstance(header, bytes):
        with_header(path, header)
    else:
        with_edited_header(path, *header)
    with pytest.raises(BundleError, match=message):
        open_items(path)


def test_rejects_header_that_moves_sections(path: Path) -> None:
    write_items(path, ["i1", "i2"])
    places = sections(path)
    between, size = places["starts"][1], places["rows"][1]
    old = f'"starts":[0,{between}],"row_starts":[{between},0],"rows":[{between},{size}]'
    new = f'"starts":[0,{between + 1}],"row_starts":[{between + 1},0],"rows":[{between + 1},{size - 1}]'
    with_edited_header(path, old, new)

    with pytest.raises(BundleError, match="header is damaged"):
        open_items(path)


@pytest.mark.parametrize("content", [b"", b"MSD", b"MSDROWS3" + b"\0" * 100, b"MSDROWS4" + b"\xff" * 100, b"\0" * 4096])
def test_rejects_other_files(path: Path, content: bytes) -> None:
    with pytest.raises(BundleError, match="No such file"):
        open_items(path)
    with pytest.raises(BundleError, match="Is a directory"):
        open_items(path.parent)
    path.write_bytes(content)
    with pytest.raises(BundleError, match="not a rows file"):
        open_items(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, 0),
    "overwritten": lambda path: path.write_bytes(b"\xff" * path.stat().st_size),
    "removed": os.unlink,
    "replaced": lambda path: write_items(path.rename(path.with_name("old")).with_name(path.name), ["x"]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_read_rows_survive_changes_of_the_file(path: Path, name: str) -> None:
    ids = [f"i{number}" for number in range(3_000)]
    rows = write_items(path, ids)
    whole = path.read_bytes()
    read, unread = open_items(path), open_items(path)
    assert read.raw(ids) == rows
    first, row = unread.scan(0, 1)[0]
    CHANGES[name](path)

    assert read.raw(ids) == rows
    assert read.get(ids).found.all()
    if name in ("truncated", "overwritten"):
        with pytest.raises(BundleError, match=r"items\.rows: block \d+ is damaged"):
            unread.raw(ids)
        with path.open("r+b") as restored:
            restored.write(whole)
    assert unread.raw([first]) == [row]
    assert unread.raw(ids) == rows


def taken_by_rows() -> int:
    """Bytes of this process's memory that hold rows of files."""
    smaps, taken, is_rows = Path("/proc/self/smaps").read_text(), 0, False
    for line in smaps.splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_rows = "msd-rows" in line
        elif is_rows and line.startswith("Rss:"):
            taken += 1024 * int(line.split()[1])
    return taken


def test_memory_grows_only_by_blocks_read(path: Path) -> None:
    """The map is as large as the file; what it takes is the blocks of a few ids, not the megabytes between them."""
    ids = [f"i{number}" for number in range(60_000)]
    write_items(path, ids)
    before = taken_by_rows()
    file = RowFile(path, ITEMS, BUNDLE_ID)
    file.get(ids[:3])
    taken = taken_by_rows() - before

    assert path.stat().st_size > 4_000_000
    assert 0 < taken <= 16 * BLOCK


def test_streamed_records_give_the_same_bytes(path: Path) -> None:
    ids, records = [f"i{number}" for number in range(40_000)], make_records(ITEMS, 40_000)
    asked: list[int] = []

    def some(rows: NDArray[np.int64]) -> Records:
        asked.append(len(rows))
        return records[rows]

    write_row_file(path, ITEMS, BUNDLE_ID, ids, some, [])
    streamed = path.read_bytes()
    write_row_file(path, ITEMS, BUNDLE_ID, ids, records, [])

    assert path.read_bytes() == streamed
    assert (sum(asked), max(asked)) == (40_000, 16_384)
