"""Side processes: asked over their sockets, replaced when they end, told when the service does."""

import asyncio
import os
import selectors
import stat
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from msd.contract.errors import MsdError
from service.metrics import Metrics
from service.settings import Settings
from service.shared import SUPERVISOR, SharedNumbers
from service.side_client import SideClient, SideError
from service.side_process import SideProcesses, SideSpec, side_socket
from tests.service.test_workers import is_alive

PATIENCE_S = 60.0


class Keeper:
    """Does what the supervisor does for its side processes."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.numbers = SharedNumbers.create(2)
        self.metrics = Metrics(self.numbers, SUPERVISOR)
        self.due: list[tuple[float, Callable[[], None]]] = []
        self.sides = SideProcesses(
            [SideSpec("recorder", "tests.service.echo_side")],
            Settings(bundle=Path("some-bundle")),
            self.numbers,
            self.metrics,
            self.selector,
            lambda seconds, call: self.due.append((time.monotonic() + seconds, call)),
        )
        assert self.sides.folder is not None
        self.folder = self.sides.folder
        self.path = side_socket(self.folder, "recorder")

    def turn(self) -> None:
        """One round, which waits for nothing."""
        for key, _ in self.selector.select(0):
            key.data()
        ripe = [call for at, call in self.due if at <= time.monotonic()]
        self.due = [(at, call) for at, call in self.due if at > time.monotonic()]
        for call in ripe:
            call()


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    with kept() as one:
        yield one


@contextmanager
def kept() -> Iterator[Keeper]:
    """A keeper whose side process runs, or will."""
    one = Keeper()
    one.sides.start()
    yield one
    one.sides.finish()


def run(keeper: Keeper, talk: Callable[[SideClient], Awaitable[None]]) -> None:
    """Talks to the side process while it is kept."""

    async def both() -> None:
        client = SideClient("recorder", keeper.path)
        task = asyncio.ensure_future(talk(client))
        while not task.done():
            keeper.turn()
            await asyncio.sleep(0.01)
        await client.close()
        await task

    asyncio.run(both())


async def pid_of(client: SideClient) -> int:
    """The process id of the side process, once it is there."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        with suppress(SideError):
            return int((await client.ask(b"0 who", PATIENCE_S)).split()[0])
        await asyncio.sleep(0.02)
    raise AssertionError("the side process does not answer")


def test_replies_belong_to_their_questions_in_whatever_order(keeper: Keeper) -> None:
    async def talk(client: SideClient) -> None:
        await pid_of(client)
        texts = ["0.2 slow", "0 quick", "0.1 " + "x" * 300_000, "0 "]
        replies = await asyncio.gather(*(client.ask(text.encode(), PATIENCE_S) for text in texts))
        assert [reply.split(b" ", 1)[1] for reply in replies] == [text.split(" ", 1)[1].encode() for text in texts]

    run(keeper, talk)
    assert stat.S_IMODE(keeper.folder.stat().st_mode) == 0o700
    assert "msd_store_errors_total 5.0" in keeper.metrics.exposition().decode()


def test_what_takes_too_long_is_an_error_and_its_reply_goes_to_nobody(keeper: Keeper) -> None:
    async def talk(client: SideClient) -> None:
        await pid_of(client)
        with pytest.raises(SideError, match="the recorder did not answer within 50 ms") as raised:
            await client.ask(b"0.2 late", 0.05)
        assert not raised.value.is_unsent
        assert (await client.ask(b"0.3 next", PATIENCE_S)).endswith(b" next")

    run(keeper, talk)


@pytest.mark.parametrize("way", ["fall", "kill"])
def test_a_side_process_that_ends_is_replaced_and_clients_find_the_new_one(keeper: Keeper, way: str) -> None:
    async def talk(client: SideClient) -> None:
        first = await pid_of(client)
        waiting = asyncio.ensure_future(client.ask(b"30 forever", PATIENCE_S))
        await client.ask(b"0 after it", PATIENCE_S)
        if way == "kill":
            os.kill(first, 9)
        else:
            assert client.tell(b"0 fall", 2**20)
        with pytest.raises(SideError, match="went away before it answered"):
            await waiting
        second = await pid_of(client)
        assert second != first
        assert not is_alive(first)

    run(keeper, talk)
    assert 'msd_side_restarts_total{process="recorder"} 1.0' in keeper.metrics.exposition().decode()


def test_a_message_that_fails_ends_its_connection_alone(keeper: Keeper) -> None:
    async def talk(client: SideClient) -> None:
        first = await pid_of(client)
        with pytest.raises(SideError):
            await client.ask(b"0 fail", PATIENCE_S)
        assert await pid_of(client) == first

    run(keeper, talk)


def test_what_was_told_is_seen_to_before_the_end(tmp_path: Path) -> None:
    words = tmp_path / "words"

    async def talk(client: SideClient) -> None:
        seen.append(await pid_of(client))
        assert client.tell(f"0 last words {words}".encode(), 2**20)
        await client.ask(b"0 after it", PATIENCE_S)

    seen: list[int] = []
    with kept() as keeper:
        run(keeper, talk)
    assert words.read_text() == "some-bundle"
    assert not is_alive(seen[0])
    assert not keeper.folder.exists()


def test_telling_loses_rather_than_waits(keeper: Keeper) -> None:
    async def talk(client: SideClient) -> None:
        assert not client.tell(b"0 nobody is there yet", 2**20)
        await pid_of(client)
        assert not client.tell(b"0 more than may wait", 10)

    run(keeper, talk)


def test_a_folder_whose_path_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(MsdError, match="set TMPDIR to a shorter one"):
        Keeper()
    assert not list(deep.iterdir())
