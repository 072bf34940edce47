"""The native core comes to what `msd.contract` comes to, bit for bit, whatever schema, rows and bytes there are."""

from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.native.comparison import FILLED, UNREAD, Pair
from tests.native.worlds import draw_world


@pytest.mark.parametrize("is_file", [True, False], ids=["files", "arenas"])
@settings(max_examples=60)
@given(seed=st.integers(0, 2**64 - 1))
def test_drawn_requests_are_equal(is_file: bool, seed: int) -> None:
    random = Random(seed)
    with TemporaryDirectory() as folder:
        pair = Pair(draw_world(random, Path(folder)), random, is_file)
        for _ in range(5):
            pair.compare(random)


@pytest.mark.parametrize("is_file", [True, False], ids=["files", "arenas"])
@pytest.mark.parametrize("seed", range(4))
def test_many_requests_are_equal_and_most_good_ones_are_filled(seed: int, is_file: bool, tmp_path: Path) -> None:
    random = Random(seed)
    pair = Pair(draw_world(random, tmp_path), random, is_file)
    outcomes = [pair.compare(random) for _ in range(400)]

    # Two in five are spoilt on purpose.
    assert outcomes.count(FILLED) > 60
    assert outcomes.count(UNREAD) > 40
