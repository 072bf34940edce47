"""Live states on the local disk, in one LMDB file. LMDB lets one process open it once, and processes write in turns.

A transaction is there whole or not at all, whatever ends the process or the machine. Knows keys, and which events were
seen within the horizon. Does not know what a state says.
"""

import hashlib
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import lmdb

from msd.contract.rows import RowSide
from service.live.batch import Batch, Outcome
from service.live.errors import LiveError
from service.live.fold import Fold
from service.live.store import States
from service.live.stream import Stream

_FORMAT = b"1"
_MAX_KEY_BYTES = 500  # LMDB's limit is 511
_MAX_READERS = 1_024
_STREAM, _GENERATION, _FORMAT_KEY = b"stream", b"generation", b"format"
_TIME = struct.Struct("<d")
_STARTED = struct.Struct("<dB")
T = TypeVar("T")


class StateFile:
    """Raises LiveError when the folder cannot hold states, or holds something else. A repeated event is known as one
    for `horizon_s` at least, and for twice as long at most."""

    def __init__(self, folder: Path, max_bytes: int, horizon_s: float = 86_400.0) -> None:
        self._folder = folder
        self._horizon_s = horizon_s
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._env = lmdb.open(
                str(folder),
                map_size=max_bytes,
                max_dbs=4,
                max_readers=_MAX_READERS,
                mode=0o600,
                readahead=False,
            )
            self._states, self._about = (self._env.open_db(name) for name in (b"states", b"about"))
            self._seen = [self._env.open_db(name) for name in (b"seen-0", b"seen-1")]
            self._env.reader_check()  # frees the slots of readers that were killed
            self._check_format()
        except (lmdb.Error, OSError) as error:
            raise LiveError(f"{folder}: cannot keep live states there ({_reason(error)}); see MSD_STATE_DIR") from error

    def read(self, side: RowSide, ids: Sequence[str]) -> States:
        """The packed states of ids, None where there is none, and the stream, all of one moment."""
        keys = [state_key(side, one) for one in ids]
        try:
            with self._env.begin(buffers=False) as transaction:
                with transaction.cursor(self._states) as cursor:
                    found: dict[bytes, bytes] = dict(cursor.getmulti(keys))
                stream = _bytes(transaction.get(_STREAM, db=self._about))
        except lmdb.Error as error:
            raise LiveError(f"{self._folder}: live states cannot be read ({_reason(error)})") from error
        return States([found.get(key) for key in keys], Stream.unpack(stream))

    def add(self, batches: Sequence[Batch]) -> list[Outcome]:
        """Folds batches, and returns when they last. Raises LiveError, and then none of them was folded."""

        def fold(transaction: lmdb.Transaction) -> list[Outcome]:
            folding = Fold(
                _Transaction(transaction, self._states, self._generations(transaction)),
                Stream.unpack(_bytes(transaction.get(_STREAM, db=self._about))),
            )
            outcomes = [folding.add(batch) for batch in batches]
            folding.write()
            if folding.stream is not None:
                transaction.put(_STREAM, folding.stream.pack(), db=self._about)
            return outcomes

        return self._write(fold)

    def close(self) -> None:
        """Lets go of the file."""
        self._env.close()

    def _write(self, change: Callable[[lmdb.Transaction], T]) -> T:
        try:
            with self._env.begin(write=True) as transaction:
                return change(transaction)
        except lmdb.MapFullError as error:
            raise LiveError(f"{self._folder}: live states have grown to MSD_STATE_MB; raise it") from error
        except (lmdb.Error, OSError) as error:
            raise LiveError(f"{self._folder}: events cannot be made to last ({_reason(error)})") from error

    def _check_format(self) -> None:
        def check(transaction: lmdb.Transaction) -> bytes:
            found = transaction.get(_FORMAT_KEY, db=self._about)
            if found is None:
                transaction.put(_FORMAT_KEY, _FORMAT, db=self._about)
            return bytes(found or _FORMAT)

        if (found := self._write(check)) != _FORMAT:
            self._env.close()
            raise LiveError(
                f"{self._folder}: states of format {found.decode('utf-8', 'replace')}, this release keeps format"
                f" {_FORMAT.decode()}; give it another MSD_STATE_DIR"
            )

    def _generations(self, transaction: lmdb.Transaction) -> "list[lmdb._Database]":
        """Where events seen are noted, the one to write to first; the other is emptied when its turn comes again."""
        started, which = _STARTED.unpack(transaction.get(_GENERATION, db=self._about) or _STARTED.pack(0.0, 0))
        now = time.time()
        # A clock that was set back begins no generation, nor does it keep one for ever.
        if not 0.0 <= now - started <= self._horizon_s:
            if now > started:
                which = 1 - which
                transaction.drop(self._seen[which], delete=False)
            transaction.put(_GENERATION, _STARTED.pack(now, which), db=self._about)
        return [self._seen[which], self._seen[1 - which]]


class _Transaction:
    """States and events seen, within one transaction."""

    def __init__(
        self, transaction: lmdb.Transaction, states: "lmdb._Database", generations: "list[lmdb._Database]"
    ) -> None:
        self._transaction = transaction
        self._states = states
        self._newer, self._older = generations

    def get(self, side: RowSide, one: str) -> bytes | None:
        return _bytes(self._transaction.get(state_key(side, one), db=self._states))

    def put(self, side: RowSide, one: str, packed: bytes) -> None:
        self._transaction.put(state_key(side, one), packed, db=self._states)

    def is_new(self, event_key: bytes) -> bool:
        key = hashlib.blake2b(event_key, digest_size=16).digest()
        if self._transaction.get(key, db=self._older) is not None:
            return False
        return bool(self._transaction.put(key, b"", overwrite=False, db=self._newer))


def state_key(side: RowSide, one: str) -> bytes:
    """The id itself behind its side's letter, or the digest of one that is too long."""
    encoded = one.encode()
    if len(encoded) <= _MAX_KEY_BYTES:
        return (b"u" if side == "user" else b"i") + encoded
    return (b"U" if side == "user" else b"I") + hashlib.blake2b(encoded, digest_size=32).digest()


def _bytes(value: bytes | memoryview | None) -> bytes | None:
    """What a transaction without buffers gives is bytes; that it can do otherwise is in its types alone."""
    assert not isinstance(value, memoryview), "transactions have no buffers"
    return value


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
