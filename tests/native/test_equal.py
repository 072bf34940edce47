"""The native core equals `msd.contract`, bit for bit, whatever schema, rows and bytes there are."""

from pathlib import Path
from random import Random

import pytest

from tests.native.comparison import FILLED, UNREAD, Pair
from tests.native.worlds import draw_world

WORLDS, REQUESTS = 60, 30


@pytest.mark.parametrize("is_file", [True, False], ids=["files", "arenas"])
def test_drawn_requests_are_equal_and_most_good_ones_are_filled(is_file: bool, tmp_path: Path) -> None:
    outcomes = []
    for seed in range(WORLDS):
        random = Random(seed)
        pair = Pair(draw_world(random, tmp_path), random, is_file)
        outcomes += [pair.compare(random) for _ in range(REQUESTS)]

    # Two in five are spoilt on purpose.
    assert outcomes.count(FILLED) > 0.15 * WORLDS * REQUESTS
    assert outcomes.count(UNREAD) > 0.1 * WORLDS * REQUESTS
