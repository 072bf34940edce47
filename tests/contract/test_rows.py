"""A row comes back as it went in, or as missing and counted: never as another row, never as an error."""

import math
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.contract.errors import BundleError
from msd.contract.rows import (
    MAX_TAIL_BYTES,
    RowCodec,
    _seal,
    has_semantic,
    pack_history,
    row_dtype,
    unpack_history,
)
from msd.contract.schema import MAX_HISTORY, FeatureSchema, Numeric, Sequence
from msd.contract.state import Impression
from tests.contract.examples import AT, BUNDLE_ID, ITEMS, OTHER_ID, SCHEMA, USERS, clicked, make_contents, make_records

IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
SIZE = ITEMS.dtype.itemsize
FLOATS = ("numeric", "semantic", "impressions", "clicks", "as_of")


def test_layout_is_that_of_every_bundle_so_far() -> None:
    assert row_dtype(SCHEMA, "item").descr == [
        ("format", "|u1"), ("flags", "|u1"), ("bundle", "<u8"), ("written_at", "<f8"), ("impressions", "<f4"),
        ("clicks", "<f4"), ("as_of", "<f8"), ("categorical", "<i4", (4,)), ("numeric", "<f4", (2,)),
        ("semantic", "<f2", (8,)), ("checksum", "<u4"),
    ]  # fmt: skip
    assert make_records(ITEMS, 1).tobytes()[:1] == b"\x03"


@pytest.mark.parametrize("codec", [USERS, ITEMS])
def test_rows_round_trip(codec: RowCodec) -> None:
    contents = make_contents(codec.side, 10)
    assert contents.semantic is not None
    contents.semantic[~contents.present] = np.nan
    tail = pack_history([]) if codec is USERS else b""
    rows = codec.unpack([record.tobytes() + tail for record in codec.pack(contents, AT)])

    assert rows.found.all()
    assert rows.damaged == 0
    assert rows.histories == (((),) * 10 if codec.side == "user" else ())
    np.testing.assert_array_equal(rows.records["categorical"], contents.categorical)
    np.testing.assert_array_equal(rows.records["numeric"], contents.numeric)
    np.testing.assert_array_equal(rows.records["impressions"], contents.impressions)
    np.testing.assert_array_equal(rows.records["as_of"], contents.as_of)
    np.testing.assert_array_equal(has_semantic(rows.records), contents.present)
    rounded = np.where(contents.present[:, None], contents.semantic, 0).astype(np.float16)
    np.testing.assert_array_equal(rows.records["semantic"], rounded)


NUMBERS = st.integers(0, 2_048).map(float)


@given(st.lists(st.builds(Impression, st.integers(0, 2**32 - 1).map(float), IDS, NUMBERS, NUMBERS)))
def test_histories_round_trip(history: list[Impression]) -> None:
    assert unpack_history(pack_history(history)) == tuple(history)

    row = make_records(USERS, 1)[0].tobytes() + pack_history(history)
    assert USERS.unpack([row]).histories == (tuple(history),)


def test_numbers_of_a_history_are_rounded_into_their_range() -> None:
    history = [Impression(-5.0, "a", 1e6, 0.0), Impression(math.inf, "b", 1e6, 1e6), Impression(9.9, "c", 3.0, 1.0)]

    assert unpack_history(pack_history(history)) == (
        Impression(0.0, "a", 60_000.0, 0.0),
        Impression(2.0**32 - 1, "b", 60_000.0, 60_000.0),
        Impression(9.0, "c", 3.0, 1.0),
    )


@given(st.binary(max_size=40))
def test_any_bytes_are_a_history_or_rejected(content: bytes) -> None:
    for tail in (content, with_sum(content)):
        history = unpack_history(tail)
        assert history is None or pack_history(history) == tail


def test_history_is_as_long_as_a_requests_at_most() -> None:
    longest = clicked(*["x" * 1_024] * MAX_HISTORY)
    tail = pack_history(longest)

    assert len(tail) == MAX_TAIL_BYTES
    assert unpack_history(tail) == longest
    with pytest.raises(BundleError, match=r"a history has 1,001 impressions; 1,000 are allowed"):
        pack_history((*longest, Impression(0.0, "i1")))


def test_check_names_the_row_that_services_would_refuse() -> None:
    USERS.check([("u1", ROW + TAIL)])
    with pytest.raises(BundleError, match=r"the row of user 'u2' has 1,034,\d+ bytes; 1,034,\d+ are allowed"):
        USERS.check([("u1", ROW + TAIL), ("u2", ROW + bytes(MAX_TAIL_BYTES + 1))])
    with pytest.raises(BundleError, match="the row of user 'u1' is damaged; export the bundle again"):
        USERS.check([("u1", ROW[1:] + TAIL)])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("impressions", -5.0),
        ("clicks", -0.1),
        ("clicks", 2e30),
        ("numeric", 3e38),
        ("numeric", -10.1),
        ("as_of", 1e12),
        ("written_at", math.nan),
        ("semantic", math.inf),
    ],
)
def test_sealed_row_with_a_value_out_of_range_is_damaged(name: str, value: float) -> None:
    records = make_records(ITEMS, 2)
    records[name][1] = value
    _seal(records)
    rows = ITEMS.unpack([record.tobytes() for record in records])

    assert (rows.found.tolist(), rows.damaged) == ([True, False], 1)
    assert rows.records[1:].tobytes() == ITEMS.missing.tobytes()
    if name not in ("written_at", "semantic"):
        with pytest.raises(BundleError, match="out of range"):
            ITEMS.pack(make_contents("item", 2)._replace(**{name: np.full_like(records[name], value)}), AT)


def test_rejects_wrong_ids_in_a_history() -> None:
    with pytest.raises(BundleError, match="an id in a history has 70000 bytes; 1024 are allowed"):
        pack_history(clicked("i1", "x" * 70_000))
    with pytest.raises(BundleError, match="an id in a history holds a NUL character"):
        pack_history(clicked("i1", "i\0"))


@pytest.mark.parametrize("numbers", [(math.nan, 1.0, 1.0), (0.0, -1.0, 0.0), (0.0, 1.0, math.nan)])
def test_rejects_wrong_numbers_in_a_history(numbers: tuple[float, float, float]) -> None:
    at, shown, clicks = numbers
    with pytest.raises(BundleError, match="a history holds invalid numbers"):
        pack_history([Impression(at, "i1", shown, clicks)])


@given(st.data())
def test_rejects_any_wrong_byte_of_a_row(data: st.DataObject) -> None:
    codec = data.draw(st.sampled_from([USERS, ITEMS]))
    row = make_records(codec, 1)[0].tobytes() + (pack_history(clicked("i1", "ß")) if codec is USERS else b"")
    place = data.draw(st.integers(0, len(row) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != row[place]))
    rows = codec.unpack([row, row[:place] + bytes([value]) + row[place + 1 :], row])

    assert (rows.found.tolist(), rows.damaged) == ([True, False, True], 1)


@given(st.lists(st.none() | st.binary(max_size=2 * SIZE) | st.integers(0, 9), max_size=6))
def test_any_bytes_are_rows_or_missing(given_rows: list[bytes | int | None]) -> None:
    ours = [record.tobytes() for record in make_records(ITEMS, 10)]
    buffers = [ours[row] if isinstance(row, int) else row for row in given_rows]
    rows = ITEMS.unpack(buffers)

    known = [buffer in ours for buffer in buffers]
    assert rows.found.tolist() == known
    assert rows.damaged == sum(buffer is not None and buffer not in ours for buffer in buffers)
    for record, buffer, is_known in zip(rows.records, buffers, known, strict=True):
        assert record.tobytes() == (buffer if is_known else ITEMS.missing.tobytes())


def with_sum(content: bytes) -> bytes:
    return content + zlib.crc32(content).to_bytes(4, "little")


def impression(length: int, shown: float = 1.0, clicks: float = 1.0) -> bytes:
    return struct.pack("<IeeH", 9, shown, clicks, length)


ROW: bytes = make_records(USERS, 1)[0].tobytes()
TAIL = pack_history(clicked("i1", "i2"))
SPOILT = {
    "empty": b"",
    "short": ROW[:-1],
    "another format": with_sum(b"\x02" + ROW[1:-4]) + TAIL,
    "of another bundle": make_records(RowCodec(SCHEMA, "user", OTHER_ID), 1)[0].tobytes() + TAIL,
    "history cut in an id": ROW + TAIL[:-1],
    "history cut in a length": ROW + TAIL + b"\x01",
    "no history": ROW,
    "history not UTF-8": ROW + with_sum(impression(2) + b"\xff\xff"),
    "history longer than it is": ROW + with_sum(impression(9) + b"i1"),
    "history that ends in a length": ROW + with_sum(impression(2) + b"i1\x01"),
    "history with a negative number": ROW + with_sum(impression(2, shown=-1.0) + b"i1"),
    "history with a number that is too large": ROW + with_sum(impression(2, shown=65_504.0) + b"i1"),
    "history with a number that is none": ROW + with_sum(impression(2, clicks=math.nan) + b"i1"),
}


LONG = with_sum((impression(2) + b"i1") * (MAX_HISTORY + 1))
SPOILT |= {"history that is too long": ROW + LONG, "history of too many bytes": ROW + bytes(MAX_TAIL_BYTES + 1)}


@pytest.mark.parametrize("how", SPOILT)
def test_damaged_row_is_missing_in_every_part_and_counted(how: str) -> None:
    good = make_records(USERS, 2)[1].tobytes() + pack_history(clicked("i3"))
    rows = USERS.unpack([good, SPOILT[how], None, good])

    assert rows.found.tolist() == [True, False, False, True]
    assert rows.damaged == 1
    assert rows.histories == (clicked("i3"), (), (), clicked("i3"))
    missing = rows.records[2]
    assert (missing["categorical"].tolist(), missing["numeric"].tolist()) == ([0] * 5, [0, 1])
    assert (missing["impressions"], missing["clicks"]) == (0, 0)
    assert has_semantic(rows.records).tolist()[1:3] == [False] * 2
    assert [record.tobytes() for record in rows.records[1:3]] == [USERS.missing.tobytes()] * 2


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *(
            (name, value, "item side holds a value that is not finite")
            for name in FLOATS
            for value in (np.nan, -np.inf)
        ),
        ("semantic", 1e5, "not finite"),
        ("impressions", 1e39, "not finite"),
        ("categorical", -1, "index outside its table"),
        ("categorical", 10_000, "index outside its table"),
    ],
)
def test_rejects_values_that_do_not_fit(name: str, value: float, message: str) -> None:
    contents = make_contents("item", 2)
    getattr(contents, name)[0] = value

    with pytest.raises(BundleError, match=message):
        ITEMS.pack(contents, AT)


def test_schema_without_vectors_and_categories() -> None:
    schema = FeatureSchema(fields=(Sequence(name="history", length=1), Numeric(name="price", side="item")))
    codec = RowCodec(schema, "item", BUNDLE_ID)
    contents = make_contents("item", 2)._replace(
        categorical=np.zeros((2, 0), np.int32), numeric=np.ones((2, 2), np.float32), semantic=None
    )
    rows = codec.unpack([record.tobytes() for record in codec.pack(contents, AT)])

    assert rows.found.all()
    assert rows.records["numeric"].tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("name", "value"), [*((name, np.nan) for name in FLOATS), ("categorical", -1), ("categorical", 10_000)]
)
def test_row_that_no_model_can_take_is_damaged(name: str, value: float) -> None:
    record = make_records(ITEMS, 1)
    record[name].flat[0] = value
    rows = ITEMS.unpack([with_sum(record.tobytes()[:-4]), make_records(ITEMS, 1).tobytes()])

    assert rows.found.tolist() == [False, True]
    assert rows.damaged == 1
    assert rows.records[0] == ITEMS.missing[0]


def test_encoded_text_is_no_row() -> None:
    """It packs and unpacks as it is, so that what a request was scored from can be kept."""
    vectors = np.arange(2 * SCHEMA.semantic_width("item"), dtype=np.float16).reshape(2, -1)
    encoded = ITEMS.encoded(vectors)
    stored = make_records(ITEMS, 1)[0].tobytes()
    rows = ITEMS.unpack([stored, encoded[0].tobytes(), None, encoded[1].tobytes()])

    assert (rows.found.tolist(), rows.damaged) == ([True, False, False, False], 0)
    assert [record.tobytes() for record in rows.records[[1, 3]]] == [record.tobytes() for record in encoded]
    assert has_semantic(rows.records).tolist() == [True, True, False, True]
    assert np.array_equal(encoded["semantic"], vectors)
    for name in ("categorical", "numeric", "impressions", "clicks", "as_of"):
        assert np.array_equal(encoded[name], np.repeat(ITEMS.missing, 2)[name])
    known = np.repeat(ITEMS.missing, 2)
    known["impressions"] = [7.0, 9.0]
    counted = ITEMS.encoded(vectors, known)
    assert counted["impressions"].tolist() == [7.0, 9.0]
    assert ITEMS.unpack([counted[1].tobytes()]).records[0] == counted[1]
    assert not has_semantic(known).any()
    spoilt = bytearray(encoded[0].tobytes())
    spoilt[9] ^= 1
    assert ITEMS.unpack([bytes(spoilt)]).damaged == 1
