"""Work beside requests: a rest after each step, in proportion to it; and its end, when that is wanted."""

import time
from pathlib import Path

import pytest

from msd.contract.bundle import MARKER, Bundle, open_bundle
from msd.contract.files import sha256_file
from service.deployment.proof import Pace, Stopped

_STEP_S = 0.02
_MB = 2**20


def rests_after(rest: float, *seconds: float) -> list[float]:
    """How long is rested after steps that take so long."""
    rests: list[float] = []
    pace = Pace(rest, rests.append)
    for one in seconds:
        pace.begin()
        time.sleep(one)
        pace.pause()
    return rests


def test_a_rest_is_in_proportion_to_its_step_and_bounded() -> None:
    """Whichever thread of a runtime computes meanwhile: what counts is the clock."""
    (rest,) = rests_after(2.0, _STEP_S)
    assert 2.0 * _STEP_S <= rest <= 0.5
    assert rests_after(1e9, _STEP_S) == [0.5]
    assert rests_after(0.0, _STEP_S) == []


def test_rests_are_no_steps() -> None:
    rests: list[float] = []

    def rest(seconds: float) -> None:
        rests.append(seconds)
        time.sleep(seconds)

    pace = Pace(2.0, rest)
    time.sleep(_STEP_S)
    for _ in range(3):
        pace.pause()
    assert rests[2] < rests[0]


def test_what_is_stopped_ends_at_its_next_step_and_does_not_rest() -> None:
    pace = Pace(1e9)
    pace.stop()
    with pytest.raises(Stopped):
        pace.pause()
    assert not pace.sleep(60.0)


def test_a_file_is_hashed_in_steps_of_a_few_milliseconds(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(bytes(33 * _MB))
    pauses: list[int] = []
    plain = sha256_file(path)

    assert sha256_file(path, lambda: pauses.append(1)) == plain
    assert len(pauses) == 9


def test_a_bundle_is_verified_in_steps(copied_bundle: Path) -> None:
    (copied_bundle / MARKER).unlink()
    pauses: list[int] = []
    opened: Bundle = open_bundle(copied_bundle, pause=lambda: pauses.append(1))

    assert len(pauses) >= len(opened.manifest.files)
