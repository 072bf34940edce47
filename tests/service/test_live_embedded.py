"""Live state beside the rows in files, over HTTP: seen by the next request, lasting, counted once."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from msd.contract.bundle import Bundle
from msd.contract.rows import RowSide
from msd.contract.state import StateRule
from native.live_state import unpack_state
from service.live.embedded import EmbeddedStates, StateFile
from service.live.store import BatchOutcome, LiveBatch, LiveError, LiveEvent
from service.server.components import open_live_store
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.bundles.factory import AT
from tests.service.live import ROOT, LiveService, live_service, run_msd
from tests.service.live_events import event, scores, tell


@contextmanager
def live_state(bundle: Bundle, folder: Path, state: Path, **settings: object) -> Iterator[LiveService]:
    with live_service(bundle.folder, folder, live="on", live_lag_seconds=1e9, state_dir=state, **settings) as running:  # type: ignore[arg-type]
        yield running


@pytest.fixture(scope="module")
def live(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service with live state; each test has users and items of its own."""
    folder = tmp_path_factory.mktemp("live")
    with live_state(bundle, folder, folder / "state") as running:
        yield running


def test_click_is_in_the_next_request(live: LiveService) -> None:
    before = scores(live, "u1", "i1", "i2")
    answer = tell(live, event("a0", "u1", "i200"))

    assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "duplicates": 0})
    assert scores(live, "u1", "i1", "i2") != before


def test_given_history_goes_before_the_live_one(live: LiveService) -> None:
    """Two users without rows differ in their clicks alone."""
    for user, item in (("x1", "i6"), ("x2", "i7")):
        tell(live, event(user, user, item))

    assert scores(live, "x1", "i1") != scores(live, "x2", "i1")
    given = [scores(live, user, "i1", override={"history": ["i5"]}) for user in ("x1", "x2")]
    assert given[0] == given[1]
    assert given[0] not in (scores(live, "x1", "i1"), scores(live, "x2", "i1"))


def test_unknown_ids_are_kept_and_counted(live: LiveService) -> None:
    def unknown() -> list[float]:
        return [live.metric(f'msd_events_noted_total{{what="unknown_{side}"}}') for side in ("user", "item")]

    before = unknown()
    assert tell(live, event("e0", "newcomer", "new-item")).json()["accepted"] == 1
    assert unknown() == [count + 1 for count in before]
    answer = live.score({"user_id": "newcomer", "at": AT + 20, "candidates": {"id": ["i1"]}}).json()
    assert answer["degraded"] == {"user": "unknown"}


def test_far_future_is_near(live: LiveService) -> None:
    ahead = live.metric('msd_events_noted_total{what="ahead"}')
    assert tell(live, event("f0", "n1", "i1", at=time.time() + 1e6)).status_code == 202
    assert live.metric('msd_events_noted_total{what="ahead"}') == ahead + 1
    assert live.metric("msd_newest_event_timestamp_seconds") < time.time() + 100


def test_states_that_outgrow_their_place_refuse_events_and_go_on_scoring(bundle: Bundle, tmp_path: Path) -> None:
    with live_state(bundle, tmp_path, tmp_path / "state", state_mb=1) as running:
        for number in range(100):
            answer = tell(running, *[event(f"{number}-{place}", f"m{number}-{place}", "i1") for place in range(500)])
            if answer.status_code != 202:
                break
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "events_unavailable")
        assert "MSD_STATE_MB" in answer.json()["error"]["message"]
        assert answer.headers["retry-after"] == "1"
        assert scores(running, "m0-0", "i1") != scores(running, "m-nobody", "i1")


def test_folder_that_cannot_hold_states_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        ended = run_msd("serve", str(bundle.folder), MSD_LIVE="on", MSD_STATE_DIR=str(folder))
        assert (ended.returncode, "MSD_STATE_DIR" in ended.stderr) == (2, True), ended.stderr
    assert "needs MSD_STATE_DIR" in run_msd("serve", str(bundle.folder), MSD_LIVE="on").stderr


def test_without_live_state_there_is_no_such_route(service: LiveService) -> None:
    assert tell(service, event("z", "u1", "i1")).status_code == 404


RULES: dict[RowSide, StateRule] = {"user": StateRule(100.0, 3), "item": StateRule(50.0, 3)}


def batch(*numbers: int) -> LiveBatch:
    """Impressions of one user and item, by their numbers."""
    events = [LiveEvent(str(number), False, "u", "i", 100.0) for number in numbers]
    return LiveBatch(events, {"user": {}, "item": {}}, RULES, 200.0)


def test_garbage_collector_tracks_the_history_of_few_users_at_a_time(tmp_path: Path) -> None:
    """It would walk those of all events that are folded together, and hold all threads meanwhile."""
    file, rules = StateFile(tmp_path / "state", 2**24), dict.fromkeys(RULES, StateRule(100.0, 50))
    users = range(100)
    tracked: list[int] = []

    def look(phase: str, info: object) -> None:
        tracked.append(len(gc.get_objects()))

    def shown(items: range) -> list[LiveBatch]:
        told = [LiveEvent(f"{u}-{i}", False, f"u{u}", f"i{i}", 1.0 + i) for u in users for i in items]
        return [
            LiveBatch(told[part : part + 100], {"user": {}, "item": {}}, rules, 9.0)
            for part in range(0, len(told), 100)
        ]

    file.add(shown(range(49)))
    more = shown(range(49, 50))
    gc.collect()
    gc.freeze()  # what other tests left would be walked in each of the collections
    threshold = gc.get_threshold()
    gc.callbacks.append(look)
    gc.set_threshold(1)
    gc.enable()
    try:
        file.add(more)
    finally:
        gc.disable()
        gc.set_threshold(*threshold)
        gc.callbacks.remove(look)
        file.close()
    assert tracked
    assert max(tracked) < 1_500


class SlowFile(StateFile):
    """A file whose writes wait for the test."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 2**24)
        self.may_write, self.writes = threading.Event(), []

    writes: list[int]

    def add(self, batches: Sequence[LiveBatch]) -> list[BatchOutcome]:
        self.writes.append(len(batches))
        assert self.may_write.wait(60)
        return super().add(batches)


def impressions(folder: Path, item: str = "i") -> float:
    file = StateFile(folder, 2**32)
    state = unpack_state(file.read("item", [item]).packed[0])
    file.close()
    assert state is not None
    return float(state.impressions)


async def begin_adding(
    store: EmbeddedStates, file: SlowFile, *batches: LiveBatch
) -> "list[asyncio.Task[BatchOutcome]]":
    """Adds batches, of which the first are being written."""
    adding = [asyncio.create_task(store.add(batch)) for batch in batches]
    while not file.writes:
        await asyncio.sleep(0.001)
    return adding


@pytest.mark.anyio
async def test_batches_that_arrive_during_a_write_share_the_next_one(tmp_path: Path) -> None:
    file = SlowFile(tmp_path)
    store = EmbeddedStates(file)
    adding = await begin_adding(store, file, *(batch(number, number + 1) for number in range(100)))
    assert (await store.get("item", ["i"])).packed == [None], "reads do not wait for the write"
    assert not any(task.done() for task in adding)
    file.may_write.set()
    outcomes = await asyncio.gather(*adding)
    assert sum(outcome.accepted for outcome in outcomes) == 101
    assert sum(outcome.duplicates for outcome in outcomes) == 99
    assert len(file.writes) <= 3
    assert sum(file.writes) == 100
    await store.close()
    assert impressions(tmp_path) == 101


@pytest.mark.anyio
async def test_close_writes_cancelled_batches(tmp_path: Path) -> None:
    file = SlowFile(tmp_path)
    store = EmbeddedStates(file)
    adding = await begin_adding(store, file, *map(batch, range(5)))
    adding.append(asyncio.create_task(store.add(batch(5))))
    await asyncio.sleep(0)
    for task in adding:
        task.cancel()
    await asyncio.gather(*adding, return_exceptions=True)
    file.may_write.set()
    await store.close()
    assert impressions(tmp_path) == 6


@pytest.mark.anyio
async def test_hanging_disk_is_an_error_in_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.live.embedded._TIMEOUT_S", 0.05)
    file = SlowFile(tmp_path)
    store = EmbeddedStates(file)
    with pytest.raises(LiveError, match="events were not on disk within 0.05 s"):
        await store.add(batch(1))
    monkeypatch.undo()
    file.may_write.set()
    # The client does not know whether it was written, and sends it again.
    assert (await store.add(batch(1))).duplicates == 1
    await store.close()


@pytest.mark.anyio
async def test_failed_write_fails_its_batches_and_not_the_next(tmp_path: Path) -> None:
    store = open_live_store(Settings(bundle=tmp_path, live=True, state_dir=tmp_path, state_mb=1), Metrics())
    full = batch(*range(40_000))
    results = await asyncio.gather(store.add(full), store.add(batch(1)), return_exceptions=True)
    assert all(isinstance(result, LiveError) and "MSD_STATE_MB" in str(result) for result in results)
    assert (await store.add(batch(1))).accepted == 1
    await store.close()


def in_another_process(folder: Path, code: str) -> list[str]:
    """What code prints that uses `file`, the state file of the folder."""
    begin = (
        "import pathlib, resource, sys; from tests.service.test_live_embedded import batch; "
        "from service.live.embedded import StateFile; from service.live.store import LiveError; "
        "file = StateFile(pathlib.Path(sys.argv[1]), 2**26)\n"
    )
    command = [sys.executable, "-c", f"{begin}{code}\nfile.close()", str(folder)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_name_of_the_folder_need_not_be_utf_8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    StateFile(folder, 2**20).close()

    assert (folder / "data.mdb").is_file()


def test_services_on_one_folder_count_an_event_once(tmp_path: Path) -> None:
    file = StateFile(tmp_path, 2**24)
    assert file.add([batch(1, 2)])[0].accepted == 2
    assert in_another_process(tmp_path, "print(file.add([batch(1, 2, 3)])[0].accepted)") == ["1"]
    assert file.add([batch(1, 2, 3, 4)])[0].accepted == 1
    file.close()
    assert impressions(tmp_path) == 4


def test_one_process_opens_a_folder_once(tmp_path: Path) -> None:
    first = StateFile(tmp_path, 2**24)
    with pytest.raises(LiveError, match="cannot keep live states there .*already open"):
        StateFile(tmp_path, 2**24)
    first.close()
    StateFile(tmp_path, 2**24).close()


def test_full_disk_is_met_at_the_start_and_not_in_mapped_memory(tmp_path: Path) -> None:
    """A hole in the file that readers map would end the process once it is written to and the disk is full."""
    file = StateFile(tmp_path, 2**24)
    lock = (tmp_path / "lock.mdb").stat()
    file.close()
    assert lock.st_blocks * 512 >= lock.st_size > 64 * 1_024
    assert lock.st_mode & 0o077 == 0


def test_full_disk_is_an_error_and_room_mends_it(tmp_path: Path) -> None:
    """A file that may not grow stands for a disk that is full: LMDB hears of both by a failed write."""
    refused, readable, accepted = in_another_process(
        tmp_path,
        "file.add([batch(1)]); soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**17, hard))\n"
        "try: file.add([batch(*range(20_000))])\n"
        "except LiveError as error: print(error)\n"
        "print(len(list(filter(None, file.read('item', ['i']).packed)))); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)); "
        "print(file.add([batch(*range(20_000))])[0].accepted)",
    )
    assert "events cannot be stored" in refused
    assert (readable, accepted) == ("1", "19999")
    assert impressions(tmp_path) == 20_000
