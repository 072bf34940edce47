"""The index gives every id its own place, in as few slots as it promises, whatever stands beside it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.contract.errors import BundleError
from msd.contract.id_index import build_index, encode_ids, encode_one, hash_all, hash_ids, hash_one, id_width

LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXTS = st.lists(st.text(LETTERS, max_size=20), min_size=1, max_size=30)


@given(TEXTS)
def test_ids_are_padded_to_one_width_and_at_least_a_byte(texts: list[str]) -> None:
    width = id_width(texts)
    words = encode_ids(texts, width)
    longest = max(len(text.encode()) for text in texts)

    assert longest < width <= longest + 8
    assert words.shape == (len(texts), width // 8)
    for text, row in zip(texts, words, strict=True):
        assert row.tobytes() == text.encode().ljust(width, b"\0") == encode_one(text, width)


@given(TEXTS, st.text(LETTERS, min_size=1, max_size=80))
def test_a_longer_id_is_like_none_of_the_others(texts: list[str], more: str) -> None:
    width = id_width(texts)
    others = {row.tobytes() for row in encode_ids(texts, width)}
    longer = "x" * width + more

    assert encode_ids([longer], width).tobytes() == encode_one(longer, width)
    assert encode_one(longer, width) not in others


@pytest.mark.parametrize(("one", "said"), [("x" * 257, "has 257 characters; 256 are allowed"), ("a\0", "NUL")])
def test_an_id_that_no_request_can_have_has_no_width(one: str, said: str) -> None:
    with pytest.raises(BundleError, match=said):
        id_width(["i1", one])


@given(TEXTS, st.integers(0, 2**64 - 1))
def test_a_hash_depends_on_nothing_but_the_id_its_width_and_the_seed(texts: list[str], seed: int) -> None:
    width = id_width(texts)
    together = hash_ids(encode_ids(texts, width), seed)
    assert together.tolist() == [int(hash_ids(encode_ids([text], width), seed)[0]) for text in texts]
    assert together.tolist() == [hash_one(encode_one(text, width), seed) for text in texts]
    assert together.tolist() == hash_all(texts, width, seed).tolist()
    assert len(set(together.tolist())) == len(set(texts))


def test_another_seed_gives_other_hashes() -> None:
    ids = encode_ids([f"i{number}" for number in range(1_000)], 8)
    assert not (hash_ids(ids, 1) == hash_ids(ids, 2)).any()


@pytest.mark.parametrize("pattern", ["{:08d}", "item-{:d}", "{:x}-{:d}", "campaign/{:d}/ad/{:d}", "{:0>40d}"])
def test_hashes_of_ids_in_sequence_differ_in_both_halves_as_random_ones_do(pattern: str) -> None:
    ids = [pattern.format(number, number % 97) for number in range(200_000)]
    hashes = hash_all(ids, id_width(ids), 3)

    assert len(np.unique(hashes)) == len(ids)
    # Of so many random numbers of 32 bits, 4.7 pairs are alike; 25 has a chance of less than one in a billion.
    assert len(ids) - len(np.unique(hashes >> np.uint64(32))) < 25
    filled = np.bincount((hashes % np.uint64(4_096)).astype(np.int64), minlength=4_096)
    assert filled.var() / filled.mean() == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("count", [1, 7, 1_000, 50_000])
def test_slots_take_15_bytes_an_id_and_every_place_once(count: int) -> None:
    built = build_index(hash_all([f"item-{number}" for number in range(count)], 16, 9), 9)
    held = built.slots[built.slots != 0]
    assert (held & np.uint64(0xFFFFFFFF)).tolist() == list(range(1, count + 1))
    assert sorted(built.order.tolist()) == list(range(count))
    assert built.slots.nbytes <= 15 * count + 600
    assert not built.slots[-8:].any()


def test_searches_are_short() -> None:
    """Linear probing at a load of .55 looks at 1.6 slots on average (Knuth, The Art of Computer Programming 6.4)."""
    hashes = hash_all([f"item-{number}" for number in range(100_000)], 16, 4)
    built = build_index(hashes, 4)
    home = (hashes % np.uint64(built.homes)).astype(np.int64)[built.order]
    steps = np.flatnonzero(built.slots) - home
    assert (steps >= 0).all()
    assert steps.mean() + 1 == pytest.approx(1.61, abs=0.05)
    # So that a window all but always has the id: of 200, one is outside in less than every twentieth request.
    assert (steps >= 8).mean() < 1 / 4_000
