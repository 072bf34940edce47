"""Kills writers with SIGKILL at random moments, and checks what they leave: `python -m tests.service.crashes KILLS`.

Each writer works in a forked process that does nothing else, over and over; a pipe tells how many writes are finished.
After a kill, another process checks what docs/bounds.md and the commands promise, and goes on as an operator would.
"""

import asyncio
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, cast

from redis import Redis
from rich.console import Console

from lab.bench.redis import FORGETFUL, RedisProcess
from msd.contract.bundle import Bundle, new_bundle, open_bundle
from msd.contract.files import write_text_atomic
from msd.contract.log import EVENTS, EventRecord
from msd.contract.rows import ROW_SIDES, RowCodec, RowSide
from msd.contract.state import StateRule
from msd.dataset.config import CONFIG_FILE
from msd.dataset.load import load_dataset
from msd.feedback import files as feedback
from msd.feedback.dataset import describe, write_dataset
from msd.feedback.files import read_requests
from msd.feedback.impressions import Windows, join
from msd.nightly.config import NightlyConfig
from msd.nightly.night import Night
from native.live_state import unpack_state
from operations.delta import open_delta, rows_digest, write_delta
from operations.publish import publish, publish_delta
from service.catalogue.embedded import EmbeddedItems
from service.catalogue.item import Item, Order
from service.deployment.bundle_folder import CURRENT, PREVIOUS, point_to, read_pointer, roll_back
from service.live.embedded import StateFile
from service.live.store import LiveBatch, LiveEvent
from service.redis.keys import LOCK, POINTER, key_prefix, rows_key
from service.request_log.files import LogFolder, encode, read_events
from tests.bundles.factory import build_bundle
from tests.bundles.ranker_graph import Recipe
from tests.feedback import made
from tests.operations.catalogue.made import quiet
from tests.operations.exports import exported_again, rows_of

_LONGEST_JOIN_S = 0.6
_EVENTS, _RECHECKED = 20, 50
_RULES: dict[RowSide, StateRule] = dict.fromkeys(ROW_SIDES, StateRule(1e12, 3))


class World(NamedTuple):
    """What writers share: a folder, a Redis, a bundle, a newer export of it, and a bundle of other weights."""

    folder: Path
    url: str
    first: Bundle
    newer: Bundle
    other: Bundle


class Writer(NamedTuple):
    """`write` makes the numbered write; `check` fails if what is there after so many finished writes, and perhaps
    another one, is not whole."""

    write: Callable[[int], object]
    check: Callable[[int], None]
    longest_s: float = 0.1
    """Of the time to a kill."""


def files(world: World) -> Writer:
    """A file is the old one or the new one."""
    path, rest = world.folder / "file", "x" * 99_999

    def write(number: int) -> None:
        write_text_atomic(path, f"{number} {rest}")

    def check(finished: int) -> None:
        if finished or path.exists():
            assert path.read_text() in (f"{finished - 1} {rest}", f"{finished} {rest}")
        write(finished)

    return Writer(write, check)


def states(world: World) -> Writer:
    """Every accepted batch counts once; the interrupted one counts whole or not at all."""
    folder, opened = world.folder / "states", list[StateFile]()

    def batch(number: int) -> LiveBatch:
        places = range(_EVENTS)
        events = [LiveEvent(f"{number}-{place}", False, f"u{place}", "item", 1.0 + number) for place in places]
        return LiveBatch(events, {"user": {}, "item": {}}, _RULES, 1e9)

    def write(number: int) -> None:
        if not opened:
            opened.append(StateFile(folder, 2**26))
        opened[0].add([batch(number)])

    def check(finished: int) -> None:
        file = StateFile(folder, 2**26)
        repeated = range(max(0, finished - _RECHECKED), finished)
        assert not any(file.add([batch(number)])[0].accepted for number in repeated)
        assert file.add([batch(finished)])[0].accepted in (0, _EVENTS)
        state = unpack_state(file.read("item", ["item"]).packed[0])
        assert state is not None
        assert round(state.impressions) == _EVENTS * (finished + 1)
        file.close()

    return Writer(write, check)


def items(world: World) -> Writer:
    """Every accepted batch of the live catalogue is there, in all orders; the interrupted one whole or not at all."""
    folder, opened = world.folder / "items", list[EmbeddedItems]()

    def batch(number: int) -> list[Item]:
        return [Item(f"{number}-{place}", 1.0, 1.0, text="x" * 500, text_at=1.0) for place in range(_EVENTS)]

    def edit(store: EmbeddedItems, number: int) -> None:
        changed: dict[str, Item | None] = {item.id: item for item in batch(number)}
        asyncio.run(store.edit(list(changed), lambda held: changed))

    def write(number: int) -> None:
        if not opened:
            opened.append(EmbeddedItems(folder, 10**6))
        edit(opened[0], number)

    def check(finished: int) -> None:
        store = EmbeddedItems(folder, 10**6)
        for number in range(max(0, finished - _RECHECKED), finished):
            assert asyncio.run(store.items([item.id for item in batch(number)])) == batch(number)
        half = asyncio.run(store.items([item.id for item in batch(finished)]))
        assert half in (batch(finished), [None] * _EVENTS)
        edit(store, finished)
        orders: tuple[Order, ...] = ("changed", "waiting")
        found = [asyncio.run(store.ordered(order, 0.0, 10**6)) for order in orders]
        assert {len(one) for one in found} == {asyncio.run(store.size())[0]} == {_EVENTS * (finished + 1)}
        asyncio.run(store.close())

    return Writer(write, check)


def pointers(world: World) -> Writer:
    """`current` and `previous` lead to bundles, and can be moved."""
    folder = world.folder / "bundles"
    for name, bundle in (("a", world.first), ("b", world.other)):
        shutil.copytree(bundle.folder, folder / name)
    point_to(folder, "a")
    point_to(folder, "b")

    def check(finished: int) -> None:
        for pointer in (CURRENT, PREVIOUS):
            assert read_pointer(folder / pointer).parent == folder.resolve()
        point_to(folder, "a")
        point_to(folder, "b")
        assert roll_back(folder) == "a"

    return Writer(lambda n: roll_back(folder) if n % 3 == 2 else point_to(folder, "ab"[n % 3]), check)


def bundles(world: World) -> Writer:
    """A bundle is absent, or whole; what a killed writer left is removed by the next."""
    folder = world.folder / "written"
    folder.mkdir()

    def write(number: int) -> None:
        with new_bundle(folder / f"{number % 2}") as temporary:
            for path in world.first.folder.iterdir():
                shutil.copy(path, temporary)

    def check(finished: int) -> None:
        for path in folder.glob("[01]"):
            (path / "verified.json").unlink(missing_ok=True)
            assert open_bundle(path).bundle_id == world.first.bundle_id
        write(0)
        write(1)
        assert sorted(path.name for path in folder.iterdir()) == ["0", "1"]

    return Writer(write, check)


def deltas(world: World) -> Writer:
    """A delta is absent, or whole."""
    folder = world.folder / "deltas"

    def check(finished: int) -> None:
        for path in folder.glob("[0-9]*"):
            assert open_delta(path).manifest.result == rows_digest(world.newer)
            shutil.rmtree(path)

    return Writer(lambda number: write_delta(world.first, world.newer, folder / str(number)), check)


def publications(world: World) -> Writer:
    """The pointer names a bundle. If its rows are said to be complete, all of that export are there; each row is always
    whole, of one export or the other."""
    delta = world.folder / "delta"
    write_delta(world.first, world.newer, delta)
    known = [world.first, world.newer, world.other]

    def write(number: int) -> None:
        if number % 3 == 1:
            publish_delta(delta, world.url, quiet)
        else:
            publish((world.first, world.other)[number % 3 // 2].folder, world.url, quiet)

    def check(finished: int) -> None:
        with Redis.from_url(world.url) as redis:
            pointer = redis.get(POINTER)
            if pointer is not None:
                _check_rows(redis, pointer.decode(), known)
            redis.delete(LOCK)  # it expires
        for number in range(3):
            write(number)

    return Writer(write, check)


def _check_rows(redis: Redis, bundle_id: str, bundles: Sequence[Bundle]) -> None:
    complete = cast("bytes | None", redis.get(rows_key(bundle_id)))
    for side in ROW_SIDES:
        prefix, codec = key_prefix(bundle_id, side), RowCodec(bundles[0].schema, side, bundle_id)
        exports = {rows_digest(bundle): _timeless(codec, rows_of(bundle)[side]) for bundle in bundles}
        keys = list(redis.scan_iter(match=f"{prefix}*"))
        values = cast("list[bytes]", redis.mget(keys))
        found = {key.decode().removeprefix(prefix): row for key, row in zip(keys, values, strict=True)}
        rows = _timeless(codec, found)
        if complete is not None and b">" not in complete:
            assert exports[complete.decode()].items() <= rows.items()
        assert rows.items() <= {item for export in exports.values() for item in export.items()}


def _timeless(codec: RowCodec, rows: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return rows without their write time, which a delta leaves as it was, and without the checksum."""
    assert codec.dtype.fields is not None
    at, end, size = codec.dtype.fields["written_at"][1], codec.dtype.fields["checksum"][1], codec.dtype.itemsize
    return {name: row[:at] + row[at + 8 : end] + row[size:] for name, row in rows.items()}


def logs(world: World) -> Writer:
    """Files of the request log that are there can be read, and finished ones are there."""
    folder, opened = world.folder / "log", list[LogFolder]()

    def write(number: int) -> None:
        if not opened:
            opened.append(LogFolder(folder, 2**30, 1e9))
        records = [EventRecord(f"{number}-{k}", "click", "u", "i", 1.0, None, 1.0) for k in range(_EVENTS)]
        opened[0].add(EVENTS, encode(records))

    def check(finished: int) -> None:
        LogFolder(folder, 2**30, 1e9).close()
        paths = sorted(folder.glob(f"{EVENTS}-*"))
        read = [[record.event_id for record in read_events(path)] for path in paths]
        assert len({*map(tuple, read)}) in (finished, finished + 1)
        assert all(len(ids) == _EVENTS for ids in read)
        assert not list(folder.glob(".events-*"))
        if len(read) == finished:
            write(finished)

    return Writer(write, check)


def joins(world: World) -> Writer:
    """The output of `msd join` is a dataset with all its events, or none."""
    folder = world.folder / "joins"
    folder.mkdir()
    in_child(lambda: _logged(folder))

    def write(number: int) -> None:
        old, out = load_dataset(folder / "old"), folder / str(number)
        log, windows = read_requests([folder], ("request",)), Windows(3_600, 0, 0, 0, 1e9)
        say = partial(describe, config=old.config)
        write_dataset(join(log, feedback.read_events([folder]), windows, describe=say).frame, old, out)

    def check(finished: int) -> None:
        for path in folder.glob("[0-9]*"):
            if (path / CONFIG_FILE).exists():
                assert load_dataset(path).events.height == 4 + _EVENTS
            shutil.rmtree(path)
        write(finished)

    return Writer(write, check, _LONGEST_JOIN_S)


def _logged(folder: Path) -> None:
    """Write a dataset and the log that continues it, in a process of its own: polars' threads do not outlive a fork."""
    (folder / "old").mkdir()
    tables = "".join(f'[{name}]\nfile = "{name}.csv"\n' for name in ("events", "items"))
    (folder / "old" / CONFIG_FILE).write_text(f'format = 1\nname = "made"\n{tables}')
    (folder / "old/events.csv").write_text("user_id,item_id,at,label\n" + "u,a,1,0\nu,b,2,1\n" * 2)
    (folder / "old/items.csv").write_text("item_id\na\nb\n")
    body = json.dumps({"user_id": "u", "candidates": {"id": ["a", "b"]}}).encode()
    rows = [{"request_id": f"r{n}", "at": 1_000.0 + n, "received_at": 1_000.0 + n} for n in range(_EVENTS)]
    made.requests(*({**row, "request": body} for row in rows)).write_parquet(folder / "requests-1.parquet")
    shown = [("impression", "a", 1_001 + n, f"r{n}") for n in range(_EVENTS)]
    made.events(*shown).write_parquet(folder / "events-1.parquet")


def nights(world: World) -> Writer:
    """A night's bundle is served whole or not at all: the pointer leads to a bundle, and the night can be repeated."""
    work, served = world.folder / "work", world.folder / "served"
    shutil.copytree(world.first.folder, served / "first")
    point_to(served, "first")
    console = Console(quiet=True)
    config = NightlyConfig(logs=["none"], dataset=work, work=work, bundles=served)
    for name, bundle in (("a", world.first), ("b", world.other)):
        shutil.copytree(bundle.folder, work / "nights" / name / "bundle")

    def write(number: int) -> None:
        name = "ab"[number % 2]
        shutil.rmtree(served / name, ignore_errors=True)
        Night(config, name, console)._publish()

    def check(finished: int) -> None:
        current = read_pointer(served / CURRENT)
        if current.exists():  # else the writer was about to bring it back
            (current / "verified.json").unlink(missing_ok=True)
            open_bundle(current)
        write(finished)
        assert read_pointer(served / CURRENT).name == "ab"[finished % 2]
        assert not list(served.glob(".*half"))

    return Writer(write, check)


WRITERS: Mapping[str, Callable[[World], Writer]] = {
    one.__name__: one for one in (files, states, items, pointers, bundles, deltas, publications, logs, joins, nights)
}


def kill_once(writer: Writer, start: int, seconds: float) -> int:
    """Write from a number on, kill the writer after that time, and return the number of finished writes."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _work(lambda: [(writer.write(number), os.write(writing, b".")) for number in count(start)])
    os.close(writing)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as told:
        finished = len(told.read())
    assert os.WIFSIGNALED(status), "the writer failed"
    return start + finished


def in_child(work: Callable[[], object]) -> None:
    """Run a check in a process of its own."""
    child = os.fork()
    if not child:
        _work(work)
    assert os.waitpid(child, 0)[1] == 0, "see above"


def _work(work: Callable[[], object]) -> None:
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main(kills: int, seed: int) -> None:
    rng = random.Random(seed)
    with TemporaryDirectory() as temporary, RedisProcess(Path(temporary) / "redis", *FORGETFUL) as redis:
        folder = Path(temporary)
        first, other = build_bundle(folder / "first"), build_bundle(folder / "other", Recipe(seed=1))
        newer = exported_again(folder / "newer", {"u1": 3, "i2": 5}, gone=("i3",))
        world = World(folder, redis.url, first, newer, other)
        writers = {name: make(world) for name, make in WRITERS.items()}
        done = dict.fromkeys(writers, 0)
        for place in range(kills):
            name = list(writers)[place % len(writers)]
            finished = kill_once(writers[name], done[name], rng.uniform(0, writers[name].longest_s))
            in_child(lambda name=name, finished=finished: writers[name].check(finished))  # type: ignore[misc]
            done[name] = finished + 1
    sys.stdout.write(f"{kills} kills; writes: {', '.join(f'{name} {number}' for name, number in done.items())}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
