"""The store of states in a file: batches that arrive together share a write, and are answered once they are on disk."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from msd.contract.rows import RowSide
from msd.contract.state import StateRule
from service.components import open_live_store
from service.live.embedded import EmbeddedStates, StateFile
from service.live.live_state import unpack_state
from service.live.store import BatchOutcome, LiveBatch, LiveError, LiveEvent
from service.settings import Settings
from tests.service.live import ROOT

RULES: dict[RowSide, StateRule] = {"user": StateRule(100.0, 3), "item": StateRule(50.0, 3)}


def batch(*numbers: int) -> LiveBatch:
    """Impressions of one user and item, by their numbers."""
    events = [LiveEvent(str(number), False, "u", "i", 100.0) for number in numbers]
    return LiveBatch(events, {"user": {}, "item": {}}, RULES, 200.0)


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


def impressions(folder: Path) -> float:
    """The item's impressions in the file."""
    file = StateFile(folder, 2**24)
    state = unpack_state(file.read("item", ["i"]).packed[0])
    file.close()
    assert state is not None
    return state.state.impressions


def test_batches_that_arrive_during_a_write_share_the_next_one(tmp_path: Path) -> None:
    async def run() -> None:
        file = SlowFile(tmp_path)
        store = EmbeddedStates(file)
        adding = [asyncio.create_task(store.add(batch(number, number + 1))) for number in range(100)]
        while not file.writes:
            await asyncio.sleep(0.001)
        # Reads do not wait for the write.
        assert (await store.get("item", ["i"])).packed == [None]
        assert not any(one.done() for one in adding)
        file.may_write.set()
        outcomes = await asyncio.gather(*adding)
        assert sum(outcome.accepted for outcome in outcomes) == 101
        assert sum(outcome.duplicates for outcome in outcomes) == 99
        assert len(file.writes) <= 3
        assert sum(file.writes) == 100
        await store.close()

    asyncio.run(run())
    assert impressions(tmp_path) == 101


def test_close_writes_what_waits_though_nobody_waits_for_it(tmp_path: Path) -> None:
    async def run() -> None:
        file = SlowFile(tmp_path)
        store = EmbeddedStates(file)
        adding = [asyncio.create_task(store.add(batch(number))) for number in range(5)]
        while not file.writes:
            await asyncio.sleep(0.001)
        adding.append(asyncio.create_task(store.add(batch(5))))
        await asyncio.sleep(0)
        for one in adding:
            one.cancel()
        await asyncio.gather(*adding, return_exceptions=True)
        file.may_write.set()
        await store.close()

    asyncio.run(run())
    assert impressions(tmp_path) == 6


def test_a_disk_that_hangs_is_an_error_in_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.live.embedded._TIMEOUT_S", 0.05)

    async def run() -> None:
        file = SlowFile(tmp_path)
        store = EmbeddedStates(file)
        with pytest.raises(LiveError, match="events were not on disk within 0.05 s"):
            await store.add(batch(1))
        file.may_write.set()
        # Whether it was written is unknown to the client, who sends it again.
        assert (await store.add(batch(1))).duplicates == 1
        await store.close()

    asyncio.run(run())


def test_a_write_that_fails_is_told_to_all_of_it_and_the_next_goes_on(tmp_path: Path) -> None:
    async def run() -> None:
        store = open_live_store(Settings(bundle=tmp_path, live=True, state_dir=tmp_path, state_mb=1))
        full = batch(*range(40_000))
        adding = await asyncio.gather(store.add(full), store.add(batch(1)), return_exceptions=True)
        assert all(isinstance(one, LiveError) and "MSD_STATE_MB" in str(one) for one in adding)
        assert (await store.add(batch(1))).accepted == 1
        await store.close()

    asyncio.run(run())


def test_services_on_one_folder_write_in_turns_and_count_an_event_once(tmp_path: Path) -> None:
    """As with several processes of one service; each sees at once what the other has written."""
    theirs = (
        "import sys, pathlib; from tests.service.test_embedded_states import batch; "
        "from service.live.embedded import StateFile; file = StateFile(pathlib.Path(sys.argv[1]), 2**24); "
        "print(file.add([batch(1, 2, 3)])[0].accepted); file.close()"
    )
    ours = StateFile(tmp_path, 2**24)
    assert ours.add([batch(1, 2)])[0].accepted == 2
    command = [sys.executable, "-c", theirs, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.stdout.strip() == "1", ended.stderr
    assert ours.add([batch(1, 2, 3, 4)])[0].accepted == 1
    ours.close()
    assert impressions(tmp_path) == 4


def test_one_process_opens_a_folder_once(tmp_path: Path) -> None:
    first = StateFile(tmp_path, 2**24)
    with pytest.raises(LiveError, match="cannot keep live states there .*already open"):
        StateFile(tmp_path, 2**24)
    first.close()
    StateFile(tmp_path, 2**24).close()


def test_a_full_disk_is_an_error_and_room_mends_it(tmp_path: Path) -> None:
    """A file that may not grow stands for a disk that is full: LMDB hears of both by a failed write."""
    told = (
        "import pathlib, resource, sys; from tests.service.test_embedded_states import batch; "
        "from service.live.embedded import StateFile; from service.live.store import LiveError; "
        "file = StateFile(pathlib.Path(sys.argv[1]), 2**26); file.add([batch(1)]); "
        "soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**17, hard))\n"
        "try: file.add([batch(*range(20_000))])\n"
        "except LiveError as error: print(error)\n"
        "print(len([one for one in file.read('item', ['i']).packed if one])); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)); "
        "print(file.add([batch(*range(20_000))])[0].accepted); file.close()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", told, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    refused, readable, accepted = ended.stdout.splitlines()
    assert "events cannot be stored" in refused, ended.stderr
    assert (readable, accepted) == ("1", "19999")
    assert impressions(tmp_path) == 20_000
