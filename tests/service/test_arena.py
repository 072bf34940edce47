"""The arena holds what it was given, or nothing: never another id's row, never more bytes than it may."""

from collections.abc import Sequence
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.contract.errors import MsdError
from msd.contract.rows import Rows, RowSide, pack_history
from msd.contract.schema import MAX_HISTORY
from service.rows.arena import Arena
from tests.contract.examples import ITEMS, USERS, clicked, make_records

CODECS = {"user": USERS, "item": ITEMS}
IDS = [f"i{number}" for number in range(12)]
# Of the longest of these ids.
_ENTRY = ITEMS.dtype.itemsize + 250 + len("i10")


def rows_of(side: RowSide, numbers: Sequence[int | None]) -> Rows:
    """Rows that carry a number each, a user's as often in their history; none for None."""
    records = make_records(CODECS[side], len(numbers))
    packed: list[bytes | None] = [None] * len(numbers)
    for place, number in enumerate(numbers):
        if number is not None:
            records["impressions"][place] = number
            body = records[place : place + 1].tobytes()[:-4]
            tail = pack_history(clicked(*[f"h{number}"] * number)) if side == "user" else b""
            packed[place] = body + crc32(body).to_bytes(4, "little") + tail
    return CODECS[side].unpack(packed)


def numbers_in(arena: Arena, ids: Sequence[str]) -> dict[str, int | None]:
    """What the arena holds of the ids; None where it knows that there is nothing."""
    places = arena.look_up(ids).places
    held = [item for item, place in zip(ids, places, strict=True) if place >= 0]
    rows = arena.rows(places[places >= 0])
    numbers = [
        int(number) if found else None for number, found in zip(rows.records["impressions"], rows.found, strict=True)
    ]
    for number, history in zip(numbers, rows.histories, strict=False):
        assert history == clicked(f"h{number}") * (number or 0)
    return dict(zip(held, numbers, strict=True))


@settings(max_examples=60)
@given(st.data(), st.sampled_from(["user", "item"]), st.integers(0, 8))
def test_arena_is_a_dictionary_that_may_forget(data: st.DataObject, side: RowSide, rows: int) -> None:
    arena = Arena(CODECS[side], rows * _ENTRY)
    model: dict[str, int | None] = {}
    for epoch in range(data.draw(st.integers(1, 12))):
        ids = data.draw(st.lists(st.sampled_from(IDS), unique=True, min_size=1))
        match data.draw(st.sampled_from(["put", "look up", "drop"])):
            case "put":
                numbers = data.draw(st.lists(st.none() | st.integers(0, 40), min_size=len(ids), max_size=len(ids)))
                arena.put(ids, rows_of(side, numbers), epoch)
                model |= dict(zip(ids, numbers, strict=True))
            case "drop":
                for item in ids:
                    arena.drop(item)
                    model.pop(item, None)
            case _:
                arena.look_up(ids)
        held = numbers_in(arena, IDS)
        assert held.items() <= model.items()
        assert len(held) == len(arena) <= rows
        assert arena._bytes <= rows * _ENTRY


def test_recently_used_rows_stay() -> None:
    arena = Arena(ITEMS, 6 * _ENTRY)
    for item in IDS[:3]:
        arena.put([item], rows_of("item", [1]), 1)
    for item in IDS[3:]:
        assert set(numbers_in(arena, IDS[:3])) == set(IDS[:3])
        arena.put([item], rows_of("item", [2]), 1)

    assert set(numbers_in(arena, IDS[:3])) == set(IDS[:3])


def test_arena_keeps_the_epoch_of_each_row() -> None:
    arena = Arena(ITEMS, 9 * _ENTRY)
    arena.put(["a", "b"], rows_of("item", [1, None]), 3)
    arena.put(["b", "c"], rows_of("item", [2, 4]), 5)
    held = arena.look_up(["c", "a", "x", "b", "c"])

    assert (held.places >= 0).tolist() == [True, True, False, True, True]
    assert held.epochs[held.places >= 0].tolist() == [5, 3, 5, 5]


def test_row_is_copied_so_that_what_takes_its_place_does_not_change_it() -> None:
    arena = Arena(ITEMS, _ENTRY)
    arena.put(["a"], rows_of("item", [1]), 0)
    rows = arena.rows(arena.look_up(["a"]).places)
    arena.put(["b"], rows_of("item", [2]), 0)

    assert rows.records["impressions"].tolist() == [1]
    assert numbers_in(arena, ["a", "b"]) == {"b": 2}


def test_long_ids_count_for_what_they_take() -> None:
    arena = Arena(ITEMS, 10 * _ENTRY)
    for number in range(50):
        arena.put([f"{number:02d}" + "😀" * 250], rows_of("item", [1]), 0)

    assert len(arena) == 10 * _ENTRY // (_ENTRY + 2 + 4 * 250 - len("i10"))


def test_history_larger_than_the_arena_is_not_held_and_moves_nobody_out() -> None:
    arena = Arena(USERS, 4 * (USERS.dtype.itemsize + 260))
    arena.put(["a"], rows_of("user", [1]), 0)
    arena.put(["b"], rows_of("user", [MAX_HISTORY]), 0)

    assert numbers_in(arena, ["a", "b"]) == {"a": 1}


def test_more_memory_than_there_is_is_refused_in_words() -> None:
    with pytest.raises(MsdError, match=r"of item rows, half of MSD_CACHE_MB: lower it"):
        Arena(ITEMS, 2**59)


@given(st.integers(0, 30), st.integers(1, 12))
def test_letting_go_takes_turns_and_leaves_nothing(count: int, most: int) -> None:
    arena = Arena(USERS, 10**6)
    if count:
        arena.put([f"u{number}" for number in range(count)], rows_of("user", [2] * count), 0)
    turns = 1
    while arena.let_go(most):
        turns += 1

    assert turns <= count // most + 1
    assert (len(arena), arena._ids.end, arena._records.nbytes) == (0, 0, 0)
    assert arena.look_up(["u0"]).places.tolist() == [-1]
