"""The index gives every id its own place, in as few slots as it promises, whatever stands beside it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.contract.id_index import WORD, build_index, encode_ids, hash_ids, hash_one

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1, max_size=30)


@given(TEXTS)
def test_ids_are_encoded_as_utf_8(texts: list[str]) -> None:
    encoded = encode_ids(texts)
    assert encoded.lengths.tolist() == [len(text.encode()) for text in texts]
    rows = encoded.words.view(np.uint8).reshape(len(texts), -1)
    for text, row in zip(texts, rows, strict=True):
        assert row.tobytes() == text.encode().ljust(rows.shape[1], b"\0")


@given(TEXTS, st.integers(0, 2**64 - 1))
def test_a_hash_depends_on_nothing_but_the_id_and_the_seed(texts: list[str], seed: int) -> None:
    together = hash_ids(encode_ids(texts), seed)
    assert together.tolist() == [int(hash_ids(encode_ids([text]), seed)[0]) for text in texts]
    assert together.tolist() == [hash_one(text.encode(), seed) for text in texts]
    assert len(set(together.tolist())) == len(set(texts))


def test_another_seed_gives_other_hashes() -> None:
    ids = encode_ids([f"i{number}" for number in range(1_000)])
    assert not (hash_ids(ids, 1) == hash_ids(ids, 2)).any()


@given(TEXTS, st.integers(0, 40))
def test_an_id_stands_where_its_bytes_are(texts: list[str], shift: int) -> None:
    content = np.frombuffer("".join(texts).encode() + b"\0" * WORD, np.uint8)
    encoded = encode_ids(texts)
    starts = np.cumsum(encoded.lengths) - encoded.lengths
    assert encoded.stand(content, starts).all()
    moved = np.minimum(starts + shift, len(content) - WORD)
    whole = content.tobytes()
    expected = [
        whole[at : at + len(text.encode())] == text.encode() for text, at in zip(texts, moved.tolist(), strict=True)
    ]
    # Of an id that would reach beyond the content nothing is said.
    inside = moved + encoded.lengths <= len(content)
    assert encoded.stand(content, moved)[inside].tolist() == np.array(expected)[inside].tolist()


@pytest.mark.parametrize("count", [1, 7, 1_000, 50_000])
def test_slots_take_12_bytes_an_id_and_every_place_once(count: int) -> None:
    built = build_index(hash_ids(encode_ids([f"item-{number}" for number in range(count)]), 9), 9)
    held = built.slots[built.slots != 0]
    assert (held & np.uint64(0xFFFFFFFF)).tolist() == list(range(1, count + 1))
    assert sorted(built.order.tolist()) == list(range(count))
    assert built.slots.nbytes <= 12 * count + 600
    assert not built.slots[-8:].any()


def test_searches_are_short() -> None:
    """Linear probing at a load of .7 looks at 2.2 slots on average (Knuth, The Art of Computer Programming 6.4)."""
    ids = encode_ids([f"item-{number}" for number in range(100_000)])
    built = build_index(hash_ids(ids, 4), 4)
    home = (hash_ids(ids, 4) % np.uint64(built.homes)).astype(np.int64)[built.order]
    steps = np.flatnonzero(built.slots) - home
    assert (steps >= 0).all()
    assert steps.mean() + 1 == pytest.approx(2.17, abs=0.1)
