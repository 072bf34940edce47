"""Rollouts, whatever is wanted in whatever order: in the end what was wanted last is served, or was refused; what is
refused never is. Loading is played in the first of these; it is real in the others, and in `test_swap`."""

import asyncio
import math
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.contract.bundle import MARKER, RANKER, Bundle, open_bundle
from msd.contract.errors import BundleError
from msd.contract.files import sha256_file
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
from service.machine import free_memory
from service.scoring.deployment import Deployment, Serving
from service.scoring.model import Model
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.trust import Trust


def reading_of(name: str) -> SourceReading:
    """One bundle, which is its name alone; a pointer that leads nowhere, without one."""
    return SourceReading(alone(Path("/") / name), {}) if name else SourceReading(None, {}, "leads nowhere")


def played(name: str) -> Model:
    """A model that is its bundle's name alone."""
    return cast(Model, SimpleNamespace(identity=name))


class PlayedFollower:
    """Sees what it is told to."""

    def __init__(self) -> None:
        self.reading = reading_of("first")

    def look(self) -> SourceReading:
        """What it was told."""
        return self.reading

    def verified(self, reading: SourceReading, pause: object = None) -> DeploymentPlan:
        """A plan of names."""
        if reading.wanted is None:
            raise BundleError(reading.reason)
        return DeploymentPlan(
            reading.wanted,
            {path: cast(PinnedBundle, SimpleNamespace(identity=path.name)) for path in reading.wanted.folders},
        )


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
        if name == "bad":
            raise BundleError("no bundle")
        if name == "odd":
            raise ZeroDivisionError("odd")
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
def test_whatever_is_wanted(actions: list[tuple[str, int]]) -> None:
    stage = Stage()
    stage.play(actions)

    wanted = actions[-1][0]
    assert set(stage.served) <= {"first", "good", "better", "late"}
    assert stage.generations == sorted(set(stage.generations))
    is_refused = wanted in ("bad", "odd", "")
    assert stage.serving.is_refused is is_refused
    if not is_refused:
        assert stage.serving.current.champion.identity == wanted


def test_what_is_served_already_is_not_loaded_again() -> None:
    stage = Stage()
    stage.play([("first", 5), ("good", 5), ("good", 5)])
    assert stage.tries == ["good"]
    assert stage.served == ["good"]


def test_what_was_seen_once_is_not_looked_into() -> None:
    """It may be a copy under way."""
    stage = Stage()
    stage.play([("bad", 1), ("good", 1), ("better", 1), ("first", 2)])
    assert stage.tries == []


def test_rows_that_are_not_there_yet_are_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stage()
    stage.play([("late", 6)])
    assert stage.tries == ["late"] * 3
    assert stage.served == ["late"]
    assert not stage.serving.is_refused
    assert capsys.readouterr().out.count("swap_postponed") == 2


def test_who_waits_for_rows_turns_to_what_is_wanted_instead() -> None:
    stage = Stage()
    stage.play([("late", 2), ("good", 2)])
    assert stage.tries == ["late", "good"]
    assert stage.served == ["good"]


@contextmanager
def pinned(folder: Path) -> Iterator[PinnedBundle]:
    """A bundle, verified and pinned."""
    with private_folder() as parent:
        yield PinnedBundle(folder, parent, True, Trust(None))


@pytest.mark.parametrize("change", [shutil.rmtree, lambda folder: folder.rename(folder.with_name("elsewhere"))])
def test_a_bundle_that_vanishes_after_it_was_verified_is_loaded_all_the_same(
    copied_bundle: Path, change: Callable[[Path], object]
) -> None:
    with pinned(copied_bundle) as one:
        change(copied_bundle)
        model = one.load(Settings(bundle=copied_bundle), Metrics())
        one.check_unchanged(lambda: None)
        assert model.identity == one.identity


def test_a_bundle_that_is_written_over_after_it_was_verified_is_refused(
    copied_bundle: Path, other_bundle: Bundle
) -> None:
    """In the very files that are open, and with their times set back."""
    path = copied_bundle / RANKER
    with pinned(copied_bundle) as one:
        before = path.stat()
        path.write_bytes(other_bundle.path(RANKER).read_bytes())
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(BundleError, match=f"{path}: was overwritten after it was verified"):
            one.check_unchanged(Pace().pause)


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
def test_what_may_be_over_a_moment_later(error: Exception, is_so: bool) -> None:
    assert is_scarce(error) is is_so

    def tell() -> None:
        try:
            raise error
        except Exception:
            raise BundleError("said so") from None

    with pytest.raises(BundleError) as told:
        tell()
    assert is_scarce(told.value) is is_so


GROUPS = {
    "no limit": ("0::/a/b\n", {"a/b/memory.max": "max", "a/b/memory.current": "5"}, None),
    "version 2": ("0::/a/b\n", {"a/b/memory.max": "900", "a/b/memory.current": "700"}, 200),
    "above": ("0::/a/b\n", {"a/memory.max": "800", "a/memory.current": "700", "a/b/memory.max": "max"}, 100),
    "page cache": (
        "0::/a\n",
        {"a/memory.max": "900", "a/memory.current": "700", "a/memory.stat": "anon 600\ninactive_file 60\nshmem 7\n"},
        260,
    ),
    "full": ("0::/a\n", {"a/memory.max": "900", "a/memory.current": "950"}, 0),
    "the mount is the group": ("0::/of/the/host\n", {"memory.max": "900", "memory.current": "700"}, 200),
    "version 1": (
        "4:cpu:/a\n3:memory:/a\n",
        {
            "memory/a/memory.limit_in_bytes": "900",
            "memory/a/memory.usage_in_bytes": "700",
            "memory/a/memory.stat": "total_active_file 50\n",
        },
        250,
    ),
}


@pytest.mark.parametrize(("groups", "files", "free"), GROUPS.values(), ids=GROUPS.keys())
def test_free_memory(tmp_path: Path, groups: str, files: dict[str, str], free: int | None) -> None:
    give_memory(tmp_path, groups, files)
    assert free_memory(tmp_path) == free


def test_a_bundle_for_which_there_is_no_memory_is_not_loaded(bundle: Bundle, tmp_path: Path) -> None:
    give_memory(tmp_path, "0::/\n", {"memory.max": str(2**30), "memory.current": str(2**30 - 2**20)})
    with pytest.raises(
        OutOfResources, match="plain: loading it takes about 32 MB of memory, but 1 MB are left for this process"
    ):
        check_memory(bundle.manifest, bundle.folder, tmp_path)
    check_memory(bundle.manifest, bundle.folder, tmp_path / "nothing is known")


def give_memory(root: Path, groups: str, files: dict[str, str]) -> None:
    """What the kernel tells of a process's control groups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


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


@pytest.fixture
def deployment(bundle: Bundle) -> Deployment:
    """The first generation, of one model."""
    plan = DeploymentPlan(alone(bundle.folder), {bundle.folder: PinnedBundle(bundle.folder, None, True, Trust(None))})
    settings = Settings.from_environ({"MSD_BUNDLE": str(bundle.folder)})
    return plan.deployment({key: one.load(settings, Metrics()) for key, one in plan.models.items()}, 1)


def another(deployment: Deployment, generation: int) -> Deployment:
    """The same again, in memory of its own."""
    (arm,) = deployment.arms
    return Deployment(generation, (replace(arm, model=replace(arm.model)),), deployment._assignment)


class Freed:
    """Tells when a deployment's model is freed, and by which thread."""

    def __init__(self, deployment: Deployment) -> None:
        self.by: threading.Thread | None = None
        self.at = 0.0
        self.event = threading.Event()
        weakref.finalize(deployment.champion, self._note)

    def _note(self) -> None:
        self.by, self.at = threading.current_thread(), time.monotonic()
        self.event.set()

    async def wait(self) -> None:
        """Until it is."""
        assert await asyncio.to_thread(self.event.wait, 60)


def test_what_was_left_is_freed_off_the_loop_and_not_at_once(deployment: Deployment) -> None:
    turned: list[int] = []
    first = another(deployment, 1)
    freed = Freed(first)
    serving = Serving(first, lambda one: turned.append(one.generation))
    del first

    async def turn() -> float:
        second, turned_at = another(deployment, 2), time.monotonic()
        serving.turn(second)
        assert serving.current is second
        assert turned == [2]
        await freed.wait()
        return freed.at - turned_at

    # Requests that it has begun may still be under way.
    assert asyncio.run(turn()) > 0.1
    assert freed.by is not threading.main_thread()


def test_a_request_at_hand_keeps_the_line_up_that_it_began_with(deployment: Deployment) -> None:
    serving = Serving(another(deployment, 1), lambda one: None)
    begun = serving.current
    freed = Freed(begun)

    async def turn() -> None:
        serving.turn(another(deployment, 2))
        await asyncio.sleep(1.5)

    asyncio.run(turn())
    assert not freed.event.is_set()
    assert begun.champion.version == deployment.champion.version
    del begun
    assert freed.event.is_set()
