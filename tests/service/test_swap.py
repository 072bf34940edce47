"""One bundle after the other, good ones and bad ones, under load: nobody is lost, and every reply is of one model."""

import os
import resource
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from msd.contract.bundle import (
    MANIFEST,
    MARKER,
    RANKER,
    ROWS,
    Bundle,
    bundle_id_of,
    file_entries,
    open_bundle,
)
from service.deployment.bundle_folder import CURRENT
from tests.bundles.factory import build_bundle, golden_requests, reseal
from tests.bundles.ranker_graph import Recipe
from tests.service.bundle_folders import break_goldens, first_golden, point, two_bundles
from tests.service.live import PAUSE_S, LiveService, live_service, wait_until

# So many of the bad ones come after a good one.
_GOOD = 3


class Clients:
    """Clients that ask without a pause for a golden's scores; each reply must be of the model that it names."""

    def __init__(self, service: LiveService, *bundles: Bundle) -> None:
        self._service = service
        self._goldens = {bundle.manifest.model_version: first_golden(bundle) for bundle in bundles}
        self._stopped = threading.Event()
        self.wrong: list[str] = []
        self.versions: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._ask) for _ in range(2)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self) -> None:
        request = {**golden_requests()[0], "top_k": None}
        with self._service.client() as client:
            while not self._stopped.wait(PAUSE_S):
                try:
                    answer = client.post("/v1/score", json=request)
                except httpx.HTTPError as error:
                    self.wrong.append(repr(error))
                    continue
                reply = answer.json()
                if answer.status_code == 200:
                    self.versions[reply["model_version"]] += 1
                    expected = self._goldens[reply["model_version"]].expected["pctr"]
                    if reply["candidates"]["pctr"] == pytest.approx(expected, abs=1e-5) and "degraded" not in reply:
                        continue
                self.wrong.append(answer.text)


def overwrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "tampered": (lambda folder: overwrite(folder / RANKER, lambda data: data[:-1] + b"x"), f"{RANKER}: its SHA-256"),
    "truncated": (lambda folder: overwrite(folder / ROWS["item"], lambda data: data[:-9]), "has "),
    "foreign": (lambda folder: (folder / MANIFEST).write_text('{"format_version": 99}'), "bundle format 99"),
    "wrong": (break_goldens, "golden 2 differs"),
    "intolerant": (lambda folder: reseal(folder, tolerances={}), "no tolerance for 'onnxruntime-cpu-fp32'"),
    "senseless": (lambda folder: make_senseless(folder), "cannot load it"),
}


def make_senseless(folder: Path) -> None:
    """Make its ranker a model without a graph, in a consistent bundle."""
    schema = open_bundle(folder).schema
    (folder / RANKER).write_bytes(b"\x08\x09")
    reseal(folder, bundle_id=bundle_id_of(schema, {RANKER: file_entries(folder)[RANKER].sha256}))


@pytest.fixture(scope="module")
def bundles(bundle: Bundle, other_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles: `a`, `b`, and those that are to be refused."""
    folder = two_bundles(tmp_path_factory.mktemp("source"), bundle, other_bundle)
    for name, (damage, _) in BAD.items():
        shutil.copytree(bundle.folder, folder / name)
        damage(folder / name)
    return folder


@pytest.mark.parametrize("place", [CURRENT, f"b/{RANKER}", f"b/{MARKER}"])
def test_pipe_in_place_of_a_file_ends_no_swaps(
    bundle: Bundle, other_bundle: Bundle, tmp_path: Path, place: str
) -> None:
    folder = two_bundles(tmp_path / "bundles", bundle, other_bundle)
    with live_service(folder, tmp_path) as service:
        pipe, kept = folder / place, tmp_path / "kept"
        if place != CURRENT:
            pipe.replace(kept)
        pipe.unlink(missing_ok=True)
        os.mkfifo(pipe)
        if place != CURRENT:
            point(folder, "b")
        if place != f"b/{MARKER}":
            wait_until(lambda: reasons(service, "bundle_refused"))
            assert version(service) == bundle.manifest.model_version
            if place != CURRENT:
                kept.replace(pipe)
            point(folder, "b")
        wait_until(lambda: version(service) == other_bundle.manifest.model_version)


@pytest.fixture(scope="module")
def following(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    with live_service(bundles, tmp_path_factory.mktemp("following"), workers=2) as running:
        yield running


def version(service: LiveService) -> str:
    with service.client() as client:
        return str(client.get("/v1/model").json()["model_version"])


def swap(service: LiveService, bundles: Path, name: str, wanted: str) -> None:
    point(bundles, name)
    wait_until(lambda: version(service) == wanted and service.metric("msd_bundle_refused") == 0)


def reasons(service: LiveService, event: str) -> list[str]:
    return [line["reason"] for line in service.log() if line["event"] == event]


def open_files(service: LiveService) -> int:
    return len(os.listdir(f"/proc/{service.process.pid}/fd"))


def test_good_and_bad_bundles_under_load(
    following: LiveService, bundles: Path, bundle: Bundle, other_bundle: Bundle
) -> None:
    clients = Clients(following, bundle, other_bundle)
    refused = following.metric('msd_swaps_total{result="refused"}')
    try:
        for turn, (name, (_, expected)) in enumerate(BAD.items(), start=1):
            if turn <= _GOOD:
                swap(following, bundles, "ab"[turn % 2], f"test-{turn % 2}")
            point(bundles, name)
            wait_until(lambda: following.metric('msd_swaps_total{result="refused"}') == refused + turn)  # noqa: B023
            assert following.metric("msd_bundle_refused") == 1
            assert following.ready()["ready"]
            assert version(following) == f"test-{min(turn, _GOOD) % 2}"
            wait_until(lambda: len(reasons(following, "bundle_refused")) >= turn)  # noqa: B023 - a line is written a moment later
            reason = reasons(following, "bundle_refused")[-1]
            assert expected in reason
            assert str(bundles / name) in reason or "golden" in expected or "tolerance" in expected
        wait_until(lambda: clients.versions["test-1"] > 20)
        swap(following, bundles, "a", "test-0")
        wait_until(lambda: clients.versions["test-0"] > 20)
    finally:
        clients.stop()
    assert clients.wrong == []
    # Requests at hand while it switched were all answered, by one model or the other.
    assert following.process.poll() is None


def test_swaps_leave_no_files_open_and_no_memory_behind(following: LiveService, bundles: Path) -> None:
    def around() -> None:
        swap(following, bundles, "b", "test-1")
        following.score(golden_requests()[0])
        swap(following, bundles, "a", "test-0")
        following.score(golden_requests()[0])

    around()
    files = open_files(following)
    for _ in range(2):
        around()
    wait_until(lambda: open_files(following) <= files)
    # Of users and items, each for Python and for the core.
    maps = Path(f"/proc/{following.process.pid}/maps")
    wait_until(lambda: sum("msd-rows" in line for line in maps.read_text().splitlines()) == 4)


def test_folder_that_is_replaced_in_place_is_followed(tmp_path: Path) -> None:
    folder = build_bundle(tmp_path / "bundle").folder
    with live_service(folder, tmp_path) as running:
        build_bundle(folder, Recipe(seed=1))
        wait_until(lambda: version(running) == "test-1")
        shutil.rmtree(folder)
        wait_until(lambda: running.metric("msd_bundle_refused") == 1)
        assert running.score(golden_requests()[0]).json()["model_version"] == "test-1"


def test_open_files_that_run_out_while_a_bundle_is_pinned_are_waited_for(bundles: Path, tmp_path: Path) -> None:
    point(bundles, "a")
    with live_service(bundles, tmp_path) as running:
        usual = resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE)
        # Some for what asks it meanwhile, fewer than a bundle has files.
        resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (open_files(running) + 4, usual[1]))
        point(bundles, "b")
        wait_until(lambda: reasons(running, "swap_postponed"))
        reason = reasons(running, "swap_postponed")[0]
        assert "Too many open files" in reason
        assert str(bundles / "b") in reason
        resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, usual)
        wait_until(lambda: version(running) == "test-1" and running.metric("msd_bundle_refused") == 0)
        assert running.score(golden_requests()[0]).status_code == 200
    point(bundles, "a")


def test_leftovers_of_killed_services_are_removed(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary, logs = tmp_path / "tmp", [tmp_path / name for name in ("one", "other", "last")]
    for folder in (temporary, *logs):
        folder.mkdir()
    (temporary / "msd-of-somebody-else").mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with live_service(bundle.folder, logs[0]) as killed:
        killed.process.kill()
        killed.process.wait(60)
    with live_service(bundle.folder, logs[1]) as alive:
        (own,) = temporary.glob("msd-*.owned")
        with live_service(bundle.folder, logs[2]):
            assert len([*temporary.glob("msd-*.owned")]) == 2
        assert [*temporary.glob("msd-*.owned")] == [own]
        assert (own / "1-plain" / RANKER).read_bytes()
        assert alive.score(golden_requests()[0]).status_code == 200
    assert [path.name for path in temporary.iterdir()] == ["msd-of-somebody-else"]
