"""The hash is part of every bundle on disk: it may never change, nor depend on anything but the string."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.contract.encode import hash_string, hash_strings

ROOT = Path(__file__).parents[2]
PINNED = {
    "": 17280346270528514342,
    "a": 9413272369427828315,
    "user-42": 11787383432861261453,
    "straße": 12691612566097651814,
    "😀": 16106665261113655964,
    "x" * 256: 5333078883861739746,
}
WORDS = st.text(st.characters(exclude_characters="\0"), max_size=40)


def by_hand(text: str) -> int:
    """The same hash, one character at a time in Python's own integers."""
    value = 0xCBF29CE484222325
    for character in text:
        value = ((value ^ ord(character)) * 0x100000001B3) % 2**64
    for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value = ((value ^ (value >> 33)) * multiplier) % 2**64
    return value ^ (value >> 33)


@pytest.mark.parametrize("text", PINNED)
def test_hashes_are_those_of_every_bundle_so_far(text: str) -> None:
    assert hash_strings([text]).tolist() == [PINNED[text]]
    assert hash_string(text) == PINNED[text]


@given(st.lists(WORDS))
def test_it_is_the_published_algorithm_whatever_the_neighbours(texts: list[str]) -> None:
    assert hash_strings(texts).tolist() == [by_hand(text) for text in texts]


@given(WORDS, st.text(max_size=60))
def test_a_longer_neighbour_changes_nothing(text: str, neighbour: str) -> None:
    assert hash_strings([text, neighbour])[0] == hash_strings([text])[0]


@given(WORDS, st.integers(0, 40))
def test_nul_characters_do_not_count(text: str, place: int) -> None:
    assert hash_strings([text[:place] + "\0" + text[place:]]) == hash_strings([text])
    assert hash_string(text[:place] + "\0" + text[place:]) == hash_strings([text])[0]


@pytest.mark.parametrize("seed", ["0", "1"])
def test_it_is_the_same_in_every_process(seed: str) -> None:
    code = f"from msd.contract.encode import hash_strings; print(*hash_strings({list(PINNED)!r}))"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert list(map(int, ended.stdout.split())) == list(PINNED.values())


def test_nothing_hashes_to_nothing() -> None:
    hashes = hash_strings([])

    assert hashes.shape == (0,)
    assert hashes.dtype == np.uint64


def test_ids_that_count_up_spread_over_buckets() -> None:
    sizes = np.bincount((hash_strings([f"u{number}" for number in range(64_000)]) % np.uint64(64)).astype(int))

    assert len(sizes) == 64
    assert sizes.min() > 850
    assert sizes.max() < 1_150
