"""The index of a rows file by hashes of IDs, which is part of every bundle on disk."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.contract.errors import BundleError
from msd.contract.id_index import build_index, encode_ids, hash_all, hash_ids, id_width

LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXTS = st.lists(st.text(LETTERS, max_size=20), min_size=1, max_size=30)


@given(TEXTS)
def test_ids_are_padded_to_one_width(texts: list[str]) -> None:
    width = id_width(texts)
    words = encode_ids(texts, width)
    longest = max(len(text.encode()) for text in texts)

    assert longest < width <= longest + 8
    assert words.shape == (len(texts), width // 8)
    for text, row in zip(texts, words, strict=True):
        assert row.tobytes() == text.encode().ljust(width, b"\0")


@pytest.mark.parametrize(("id_", "message"), [("x" * 257, "has 257 characters; 256 are allowed"), ("a\0", "NUL")])
def test_rejects_id_that_no_request_can_have(id_: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        id_width(["i1", id_])


@given(TEXTS, st.integers(0, 2**64 - 1))
def test_hash_depends_only_on_id_width_and_seed(texts: list[str], seed: int) -> None:
    width = id_width(texts)
    together = hash_ids(encode_ids(texts, width), seed)
    assert together.tolist() == [int(hash_ids(encode_ids([text], width), seed)[0]) for text in texts]
    assert together.tolist() == hash_all(texts, width, seed).tolist()
    assert len(set(together.tolist())) == len(set(texts))
    assert not (together == hash_ids(encode_ids(texts, width), seed ^ 1)).any()


@pytest.mark.parametrize("pattern", ["{:08d}", "item-{:d}", "{:x}-{:d}", "campaign/{:d}/ad/{:d}", "{:0>40d}"])
def test_hashes_of_sequential_ids_look_random(pattern: str) -> None:
    ids = [pattern.format(number, number % 97) for number in range(200_000)]
    hashes = hash_all(ids, id_width(ids), 3)

    assert len(np.unique(hashes)) == len(ids)
    # Of so many random numbers of 32 bits, 4.7 pairs are alike; 25 has a chance of less than one in a billion.
    assert len(ids) - len(np.unique(hashes >> np.uint64(32))) < 25
    filled = np.bincount((hashes % np.uint64(4_096)).astype(np.int64), minlength=4_096)
    assert filled.var() / filled.mean() == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("count", [0, 1, 7, 1_000, 50_000])
def test_buckets_hold_two_ids_in_two_bytes_each(count: int) -> None:
    hashes = hash_all([f"item-{number}" for number in range(count)], 16, 9)
    built = build_index(hashes, 9)
    buckets = np.arange(len(built.starts) - 1)
    assert (built.starts[0], built.starts[-1]) == (0, count)
    assert sorted(built.order.tolist()) == list(range(count))
    assert (hashes[built.order] % np.uint64(len(buckets))).tolist() == np.repeat(
        buckets, np.diff(built.starts)
    ).tolist()
    assert built.starts.nbytes <= 2 * count + 8
