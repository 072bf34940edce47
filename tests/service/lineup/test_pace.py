"""Work beside requests: a rest after each step, in proportion to it; and its end, when that is wanted."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from msd.contract.bundle import MARKER, Bundle, open_bundle
from msd.contract.files import sha256_file
from service.deployment.proof import Pace, Stopped

_STEP_S = 0.02
_MB = 2**20


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clock of the pace forward; it does not go by itself."""
    now = [100.0]

    def wait(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("service.deployment.proof.time", SimpleNamespace(perf_counter=lambda: now[0]))
    return wait


@pytest.mark.parametrize(("rest", "due"), [(2.0, [2.0 * _STEP_S]), (1e9, [0.5]), (0.0, [])])
def test_a_rest_is_in_proportion_to_its_step_and_bounded(
    rest: float, due: list[float], wait: Callable[[float], None]
) -> None:
    """Whichever thread of a runtime computes meanwhile: what counts is the clock."""
    rests: list[float] = []
    pace = Pace(rest, rests.append)
    wait(1.0)
    pace.begin()
    wait(_STEP_S)
    pace.pause()
    assert rests == pytest.approx(due)


def test_rests_are_no_steps(wait: Callable[[float], None]) -> None:
    rests: list[float] = []

    def rest(seconds: float) -> None:
        rests.append(seconds)
        wait(seconds)

    pace = Pace(2.0, rest)
    for _ in range(3):
        wait(_STEP_S)
        pace.pause()
    assert rests == pytest.approx([2.0 * _STEP_S] * 3)


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
