"""Rollouts, whatever is wanted in whatever order: in the end what was wanted last is served, or was refused; what is
refused never is. Loading is played in the first of these; it is real in the others, and in `test_swap`."""

import asyncio
import math
import os
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.contract.bundle import MARKER, RANKER, Bundle, open_bundle
from msd.contract.errors import BundleError
from service.deployment.pinned_bundle import DeploymentPlan, PinnedBundle, private_folder
from service.deployment.proof import Pace, Stopped
from service.deployment.rollout import (
    BundleFollower,
    OutOfResources,
    Rollout,
    SourceReading,
    check_memory,
    is_scarce,
)
from service.deployment.source import alone
from service.errors import StoreError
from service.scoring.deployment import Deployment, Serving
from service.scoring.model import Model
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.trust import Trust
from tests.service.control_groups import write_groups
from tests.service.redis_rows import until


def reading_of(name: str) -> SourceReading:
    """One bundle, which is its name alone; a pointer that leads nowhere, without one."""
    return SourceReading(alone(Path("/") / name), {}) if name else SourceReading(None, {}, "leads nowhere")


def played(name: str) -> Model:
    return cast(Model, SimpleNamespace(identity=name))


class PlayedFollower:
    """Sees what it is told to."""

    def __init__(self) -> None:
        self.reading = reading_of("first")

    def look(self) -> SourceReading:
        return self.reading

    def verified(self, reading: SourceReading, pause: object = None) -> DeploymentPlan:
        if reading.wanted is None:
            raise BundleError(reading.reason)
        return DeploymentPlan(
            reading.wanted,
            {path: cast(PinnedBundle, SimpleNamespace(identity=path.name)) for path in reading.wanted.folders},
        )


# New ones each time: an error that is raised again keeps the frames of all times before, and all are logged.
ERRORS: dict[str, Callable[[], Exception]] = {
    "bad": partial(BundleError, "no bundle"),
    "odd": partial(ZeroDivisionError, "odd"),
}


class Stage(Rollout):
    """A rollout that loads by name: `bad` is refused, `odd` fails, `late` has no rows for the first two tries."""

    def __init__(self) -> None:
        self.tries: list[str] = []
        self.served: list[str] = []
        self.generations = [1]
        self.follower = PlayedFollower()
        first = self.follower.verified(self.follower.reading)
        self.serving = Serving(first.deployment({("first", False): played("first")}, 1), self._note)
        super().__init__(
            cast(BundleFollower, self.follower), first, self.serving, Settings(bundle=Path("/")), Metrics()
        )

    def _load(self, pinned: PinnedBundle) -> Model:
        name = pinned.identity
        self.tries.append(name)
        if name in ERRORS:
            raise ERRORS[name]()
        if name == "late" and self.tries.count(name) <= 2:
            raise StoreError("no rows yet", None)
        return played(name)

    def _note(self, deployment: Deployment) -> None:
        self.served.append(str(deployment.champion.identity))
        self.generations.append(deployment.generation)

    def play(self, found: Sequence[tuple[str, int]]) -> None:
        """Each is wanted for so many looks, the last for as long as there is something to do."""

        async def run() -> None:
            self._loop = asyncio.get_running_loop()
            await asyncio.to_thread(self._look_at, found)

        asyncio.run(run())

    def _look_at(self, found: Sequence[tuple[str, int]]) -> None:
        for name, looks in [*found, (found[-1][0], 8)]:
            self.follower.reading = reading_of(name)
            for _ in range(looks):
                # Whatever is to be tried again is, now.
                self._again_at = 0.0 if math.isfinite(self._again_at) else math.inf
                self._look()


WANTED = st.sampled_from(["first", "good", "better", "bad", "odd", "late", ""])


@settings(max_examples=30)
@given(st.lists(st.tuples(WANTED, st.integers(0, 4)), min_size=1, max_size=12))
def test_last_wanted_bundle_is_served_or_refused(actions: list[tuple[str, int]]) -> None:
    stage = Stage()
    stage.play(actions)

    wanted = actions[-1][0]
    assert set(stage.served) <= {"first", "good", "better", "late"}
    assert stage.generations == sorted(set(stage.generations))
    is_refused = wanted in ("bad", "odd", "")
    assert stage.serving.is_refused is is_refused
    if not is_refused:
        assert stage.serving.current.champion.identity == wanted


@pytest.mark.parametrize(
    ("actions", "tries", "served"),
    [
        ([("first", 5), ("good", 5), ("good", 5)], ["good"], ["good"]),
        # Seen once, it may be a copy in progress.
        ([("bad", 1), ("good", 1), ("better", 1), ("first", 2)], [], []),
        ([("late", 6)], ["late"] * 3, ["late"]),
        ([("late", 2), ("good", 2)], ["late", "good"], ["good"]),
    ],
    ids=["served already", "seen once", "rows come late", "replaced while its rows are late"],
)
def test_bundle_is_loaded_once_it_is_settled_and_has_rows(
    actions: list[tuple[str, int]], tries: list[str], served: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage()
    stage.play(actions)
    assert (stage.tries, stage.served, stage.serving.is_refused) == (tries, served, False)
    assert capsys.readouterr().out.count("swap_postponed") == (2 if len(tries) == 3 else "late" in tries)


@contextmanager
def pinned(folder: Path) -> Iterator[PinnedBundle]:
    with private_folder() as parent:
        yield PinnedBundle(folder, parent, True, Trust(None))


@pytest.mark.parametrize("change", [shutil.rmtree, lambda folder: folder.rename(folder.with_name("elsewhere"))])
def test_bundle_that_vanishes_after_it_was_verified_is_loaded_all_the_same(
    copied_bundle: Path, change: Callable[[Path], object]
) -> None:
    with pinned(copied_bundle) as bundle:
        change(copied_bundle)
        model = bundle.load(Settings(bundle=copied_bundle), Metrics())
        bundle.check_unchanged(lambda: None)
        assert model.identity == bundle.identity


def test_bundle_that_is_written_over_after_it_was_verified_is_refused(
    copied_bundle: Path, other_bundle: Bundle
) -> None:
    """In the very files that are open, and with their times set back."""
    path = copied_bundle / RANKER
    with pinned(copied_bundle) as bundle:
        before = path.stat()
        path.write_bytes(other_bundle.path(RANKER).read_bytes())
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(BundleError, match=f"{path}: was overwritten after it was verified"):
            bundle.check_unchanged(Pace().pause)


@pytest.mark.parametrize(
    ("error", "is_so"),
    [
        (BundleError("golden 2 differs"), False),
        (FileNotFoundError(2, "No such file"), False),
        (OSError(24, "Too many open files"), True),
        (OSError(28, "No space left on device"), True),
        (MemoryError(), True),
    ],
)
def test_shortage_is_recognised(error: Exception, is_so: bool) -> None:
    assert is_scarce(error) is is_so

    refusal = BundleError("said so")
    refusal.__context__ = error
    assert is_scarce(refusal) is is_so


def test_bundle_larger_than_free_memory_is_not_loaded(bundle: Bundle, tmp_path: Path) -> None:
    write_groups(tmp_path, "0::/", {"memory.max": 2**30, "memory.current": 2**30 - 2**20})
    with pytest.raises(
        OutOfResources, match="plain: loading it takes about 32 MB of memory, but 1 MB are left for this process"
    ):
        check_memory(bundle.manifest, bundle.folder, tmp_path)
    check_memory(bundle.manifest, bundle.folder, tmp_path / "nothing is known")


_STEP_S = 0.02


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [100.0]

    def wait(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("service.deployment.proof.time", SimpleNamespace(perf_counter=lambda: now[0]))
    return wait


@pytest.mark.parametrize(("rest", "due"), [(2.0, [2.0 * _STEP_S] * 3), (1e9, [0.5] * 3), (0.0, [])])
def test_rest_is_bounded_and_in_proportion_to_its_step(
    rest: float, due: list[float], wait: Callable[[float], None]
) -> None:
    """The clock counts, whichever thread computes; a rest is no part of the next step."""
    rests: list[float] = []

    def sleep(seconds: float) -> None:
        rests.append(seconds)
        wait(seconds)

    pace = Pace(rest, sleep)
    wait(1.0)
    pace.begin()
    for _ in range(3):
        wait(_STEP_S)
        pace.pause()
    assert rests == pytest.approx(due)


def test_stopped_work_ends_at_its_next_step() -> None:
    pace = Pace(1e9)
    pace.stop()
    with pytest.raises(Stopped):
        pace.pause()
    assert not pace.sleep(60.0)


def test_bundle_is_verified_in_steps(copied_bundle: Path) -> None:
    (copied_bundle / MARKER).unlink()
    pauses: list[int] = []
    opened: Bundle = open_bundle(copied_bundle, pause=lambda: pauses.append(1))

    assert len(pauses) >= len(opened.manifest.files)


@pytest.fixture
def deployment(bundle: Bundle) -> Deployment:
    plan = DeploymentPlan(alone(bundle.folder), {bundle.folder: PinnedBundle(bundle.folder, None, True, Trust(None))})
    settings = Settings.from_environ({"MSD_BUNDLE": str(bundle.folder)})
    return plan.deployment({key: pinned.load(settings, Metrics()) for key, pinned in plan.models.items()}, 1)


@pytest.mark.anyio
async def test_replaced_deployment_is_freed_off_the_loop_(deployment: Deployment) -> None:
    (arm,) = deployment.arms
    first, held, last = (
        Deployment(generation, (replace(arm, model=replace(arm.model)),), deployment._split) for generation in (1, 2, 3)
    )
    turned: list[int] = []
    freed: list[tuple[int, threading.Thread]] = []
    for deployed in (first, held):
        weakref.finalize(
            deployed.champion,
            lambda number: freed.append((number, threading.current_thread())),
            deployed.generation,
        )
    serving = Serving(first, lambda deployed: turned.append(deployed.generation))
    del first, deployed
    serving.turn(held)
    assert serving.current is held
    serving.turn(last)
    # Its requests may still be running.
    assert not freed
    await until(lambda: bool(freed))
    assert turned == [2, 3]
    ((number, thread),) = freed
    assert number == 1
    assert thread is not threading.main_thread()
    assert held.champion.version == deployment.champion.version
