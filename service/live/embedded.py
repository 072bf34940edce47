"""Live states on the local disk, in one LMDB file: read on the event loop, written by one thread. Batches that arrive
during a write share the next one.

LMDB lets one process open a folder once, and processes write in turns. A transaction is durable whole or not at all,
whatever ends the process or the machine.
"""

import asyncio
import hashlib
import math
import struct
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import lmdb
import structlog

from msd.contract.rows import ROW_SIDES, RowSide
from native.live_state import unpack_state
from service.live.live_state import resumed
from service.live.room import Room, used_bytes
from service.live.store import BatchOutcome, LiveBatch, LiveError, LiveEvent, PackedStates, Stream, after
from service.lmdb_folder import open_folder

_FORMAT = b"2"
_MAX_KEY_BYTES = 500  # LMDB's limit is 511
_STREAM, _SEEN, _FORMAT_KEY = b"stream", b"seen", b"format"
_AGE = struct.Struct("<dddB")
_MAX_BATCHES = 64
_TIMEOUT_S = 5.0


class _Waiting(NamedTuple):
    batch: LiveBatch
    answer: "asyncio.Future[BatchOutcome]"


class EmbeddedStates:
    """The states of one file, which is closed with the store."""

    is_local = True

    def __init__(self, file: "StateFile") -> None:
        self._file = file
        self._waiting: list[_Waiting] = []
        self._writing: asyncio.Task[None] | None = None
        # A write transaction belongs to one thread, and that thread waits for the disk.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="states")
        self._log = structlog.get_logger("msd.live")

    async def get(self, side: RowSide, ids: Sequence[str], deadline: float | None = None) -> PackedStates:
        """Read from mapped memory: a read waits for no write."""
        return self._file.read(side, ids)

    def cached(self, side: RowSide, ids: Sequence[str]) -> PackedStates | None:
        """As `get`; None if the file cannot be read."""
        try:
            return self._file.read(side, ids)
        except LiveError:
            return None

    async def add(self, batch: LiveBatch) -> BatchOutcome:
        """Return once the batch is on disk. Raises LiveError if it cannot be written, or is not within 5 s."""
        answer: asyncio.Future[BatchOutcome] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(batch, answer))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await answer
        except TimeoutError:
            raise LiveError(f"events were not on disk within {_TIMEOUT_S:g} s") from None

    async def close(self) -> None:
        if self._writing is not None:
            await self._writing
        self._thread.shutdown()
        self._file.close()

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                together, self._waiting = self._waiting[:_MAX_BATCHES], self._waiting[_MAX_BATCHES:]
                await self._write(together)
        finally:
            self._writing = None

    async def _write(self, together: Sequence[_Waiting]) -> None:
        # Write abandoned batches too: a batch may be sent again, and then counts as a duplicate.
        batches = [waiting.batch for waiting in together]
        try:
            outcomes = await asyncio.get_running_loop().run_in_executor(self._thread, self._file.add, batches)
        except Exception as error:
            is_ours = isinstance(error, LiveError)
            self._log.error("events_not_kept", reason=str(error), exc_info=None if is_ours else error)
            failed = error if isinstance(error, LiveError) else LiveError(f"events cannot be written: {error}")
            for waiting in together:
                if not waiting.answer.done():
                    waiting.answer.set_exception(failed)
            return
        for waiting, outcome in zip(together, outcomes, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(outcome)


class StateFile:
    """The file of states in a folder. A repeated event is recognised for `horizon_s` at least, whatever the machine's
    clock says. Raises LiveError if the folder cannot hold states, or holds something else."""

    def __init__(self, folder: Path, max_bytes: int, horizon_s: float = 86_400.0) -> None:
        self._folder = folder
        self._horizon_s = horizon_s
        try:
            self._env = open_folder(folder, max_bytes, max_dbs=4)
            self._states, self._about = (self._env.open_db(name) for name in (b"states", b"about"))
            self._seen = [self._env.open_db(name) for name in (b"seen-0", b"seen-1")]
            self.room = Room(self._states, max_bytes)
            self._check_format()
        except (lmdb.Error, OSError) as error:
            raise LiveError(f"{folder}: cannot keep live states there ({_reason(error)}); see MSD_STATE_DIR") from error

    def read(self, side: RowSide, ids: Sequence[str]) -> PackedStates:
        """Return the packed states of ids, None where there is none, and the stream, all of one moment."""
        keys = [state_key(side, owner) for owner in ids]
        try:
            with self._env.begin(buffers=False) as transaction:
                with transaction.cursor(self._states) as cursor:
                    found: dict[bytes, bytes] = dict(cursor.getmulti(keys))
                stream = _bytes(transaction.get(_STREAM, db=self._about))
        except lmdb.Error as error:
            raise LiveError(f"{self._folder}: live states cannot be read ({_reason(error)})") from error
        return PackedStates([found.get(key) for key in keys], Stream.unpack(stream))

    def add(self, batches: Sequence[LiveBatch]) -> list[BatchOutcome]:
        """Fold batches; return once they are durable. Raises LiveError, and then none of them was folded."""
        try:
            self._turn_generation()
            with self._env.begin(write=True) as transaction:
                age = self._age(transaction)
                transaction.put(_SEEN, _AGE.pack(*age), db=self._about)
                generations = self._seen[age.which], self._seen[1 - age.which]
                stream = Stream.unpack(_bytes(transaction.get(_STREAM, db=self._about)))
                folding = _Fold(transaction, self._states, generations, stream)
                outcomes = [folding.add(batch) for batch in batches]
                if folding.stream is not None:
                    transaction.put(_STREAM, folding.stream.pack(), db=self._about)
                    self.room.make(transaction, folding.changed, folding.stream.until, batches[-1].rules)
            return outcomes
        except lmdb.MapFullError as error:
            raise LiveError(f"{self._folder}: live states have reached MSD_STATE_MB; raise it") from error
        except (lmdb.Error, OSError) as error:
            raise LiveError(f"{self._folder}: events cannot be stored ({_reason(error)})") from error

    def used_bytes(self) -> float:
        """Return the bytes that states and the events seen take; NaN once the file is closed. For any thread."""
        try:
            with self._env.begin() as transaction:
                return sum(used_bytes(transaction, database) for database in (self._states, *self._seen))
        except lmdb.Error:
            return math.nan

    def close(self) -> None:
        self._env.close()

    def _check_format(self) -> None:
        with self._env.begin(write=True) as transaction:
            found = _bytes(transaction.get(_FORMAT_KEY, db=self._about))
            if found is None:
                transaction.put(_FORMAT_KEY, _FORMAT, db=self._about)
        if found is not None and found != _FORMAT:
            self._env.close()
            raise LiveError(
                f"{self._folder}: states of format {found.decode('utf-8', 'replace')}, this release keeps format"
                f" {_FORMAT.decode()}; give it another MSD_STATE_DIR"
            )

    def _age(self, transaction: lmdb.Transaction) -> "_Age":
        """Return the age of the current generation of seen events now."""
        clock, uptime = time.time(), time.monotonic()
        held = transaction.get(_SEEN, db=self._about)
        if held is None:
            return _Age(0.0, clock, uptime, 0)
        last = _Age._make(_AGE.unpack(held))
        # No more than has passed: the clock may jump, and the uptime be another machine's.
        passed = uptime - last.uptime if uptime >= last.uptime else uptime
        return _Age(last.seconds + max(0.0, min(clock - last.clock, passed)), clock, uptime, last.which)

    def _turn_generation(self) -> None:
        """Begin the next generation if the current one is old. In a transaction of its own: what it frees is room for
        the next."""
        with self._env.begin() as transaction:
            is_old = self._age(transaction).seconds > self._horizon_s
        if is_old:
            with self._env.begin(write=True) as transaction:
                age = self._age(transaction)
                if age.seconds > self._horizon_s:  # another process may have been faster
                    transaction.drop(self._seen[1 - age.which], delete=False)
                    packed = _AGE.pack(*age._replace(seconds=0.0, which=1 - age.which))
                    transaction.put(_SEEN, packed, db=self._about)


class _Age(NamedTuple):
    """The age of the current generation in seconds; when it was taken, by the clock and since the machine started; and
    which generation it is."""

    seconds: float
    clock: float
    uptime: float
    which: int


class _Fold:
    """The changes of one transaction, each event once. States are held packed, because the garbage collector would walk
    the histories of thousands, and hold all threads meanwhile."""

    def __init__(
        self,
        transaction: lmdb.Transaction,
        states: "lmdb._Database",
        generations: "tuple[lmdb._Database, lmdb._Database]",
        stream: Stream | None,
    ) -> None:
        self._transaction = transaction
        self._states = states
        self._newer, self._older = generations
        self.stream = stream
        self.changed = 0
        """States written."""

    def add(self, batch: LiveBatch) -> BatchOutcome:
        for stretch in batch.stretches:
            self.stream = after(self.stream, stretch, batch.lag_s)
        new = [event for event in batch.events if self._is_new(event)]
        late, in_row, damaged = set[int](), set[int](), 0
        for side in ROW_SIDES:
            places = defaultdict[str, list[int]](list)
            for place, event in enumerate(new):
                if owner := event.owner(side):
                    places[owner].append(place)
            for owner, own in places.items():
                key = state_key(side, owner)
                packed = _bytes(self._transaction.get(key, db=self._states))
                live = unpack_state(packed)
                damaged += packed is not None and live is None
                state, is_changed = resumed(live, batch.rows[side].get(owner)), False
                for place in own:
                    is_late = new[place].at < state.as_of
                    if not new[place].fold_into(state, side, batch.rules[side]):
                        in_row.add(place)
                        continue
                    is_changed = True
                    if is_late:
                        late.add(place)
                if is_changed:
                    self._transaction.put(key, state.pack(), db=self._states)
                    self.changed += 1
        newest = self.stream.until if self.stream else 0.0
        return BatchOutcome(len(new), len(batch.events) - len(new), len(late), len(in_row), newest, damaged)

    def _is_new(self, event: LiveEvent) -> bool:
        key = hashlib.blake2b(event.key, digest_size=16).digest()
        if self._transaction.get(key, db=self._older) is not None:
            return False
        return bool(self._transaction.put(key, b"", overwrite=False, db=self._newer))


def state_key(side: RowSide, owner: str) -> bytes:
    """Return the side's letter and the ID, or its digest if it is too long."""
    encoded = owner.encode()
    if len(encoded) <= _MAX_KEY_BYTES:
        return (b"u" if side == "user" else b"i") + encoded
    return (b"U" if side == "user" else b"I") + hashlib.blake2b(encoded, digest_size=32).digest()


def _bytes(value: bytes | memoryview | None) -> bytes | None:
    """Return bytes: a transaction without buffers returns nothing else, but its types allow it."""
    assert not isinstance(value, memoryview), "transactions have no buffers"
    return value


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
