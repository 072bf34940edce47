"""The live catalogue on the local disk, in an LMDB folder of its own beside the live states: all services of a machine
that have this state folder share it. Rows are read on the event loop; one thread writes.
"""

import asyncio
import hashlib
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import lmdb

from service.catalogue.item import CatalogueError, CatalogueFull, Decide, Item, Order, unpack_item
from service.limits import MAX_ITEM_BYTES
from service.lmdb_folder import open_folder

_FORMAT = b"1"
_ORDERS: tuple[Order, ...] = ("changed", "due", "gone", "waiting")
_NUMBER = struct.Struct(">d")  # sorts as its bytes do, if it is not negative
_MAX_KEY_BYTES, _TAG = 440, 16
_UNUSED_S = 3_600.0
_FORMAT_KEY, _LAST, _USED = b"format", b"last", b"used:"
# Of rows and orders, beside an item's description.
_BESIDE_BYTES = 16_384
Result = TypeVar("Result")


class EmbeddedItems:
    """The catalogue in a folder, with at most `most` items. Raises CatalogueError if the folder cannot hold one."""

    def __init__(self, folder: Path, most: int) -> None:
        self._folder = folder
        self._most = most
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="catalogue")
        try:
            size = (most + 1_000) * (MAX_ITEM_BYTES + _BESIDE_BYTES)
            self._env = open_folder(folder, size, max_dbs=8)
            self._items, self._rows, self._about = (self._env.open_db(name) for name in (b"items", b"rows", b"about"))
            self._orders = {order: self._env.open_db(order.encode()) for order in _ORDERS}
            with self._env.begin(write=True) as transaction:
                found = transaction.get(_FORMAT_KEY, _FORMAT, db=self._about)
                transaction.put(_FORMAT_KEY, found, db=self._about)
        except (lmdb.Error, OSError) as error:
            raise CatalogueError(f"{folder}: cannot keep the catalogue there ({error}); see MSD_STATE_DIR") from error
        if bytes(found) != _FORMAT:
            raise CatalogueError(f"{folder}: a catalogue of another format; give it another MSD_STATE_DIR")

    async def edit(self, ids: Sequence[str], decide: Decide) -> int:
        return await self._in_thread(self._edit, ids, decide)

    async def items(self, ids: Sequence[str]) -> list[Item | None]:
        # Not on the event loop: long ones take a while.
        return await asyncio.to_thread(
            self._read, lambda transaction: [self._item(transaction, item_id) for item_id in ids]
        )

    async def ordered(self, order: Order, after: float, most: int) -> list[tuple[float, str]]:
        def read(transaction: lmdb.Transaction) -> list[tuple[float, str]]:
            found: list[tuple[float, str]] = []
            with transaction.cursor(self._orders[order]) as cursor:
                at = cursor.set_range(_NUMBER.pack(after) + b"\xff" * _MAX_KEY_BYTES)
                while at and len(found) < most:
                    found.append((_NUMBER.unpack_from(cursor.key())[0], bytes(cursor.value()).decode()))
                    at = cursor.next()
            return found

        return await asyncio.to_thread(self._read, read)

    async def size(self) -> tuple[int, int]:
        return self._read(lambda transaction: (transaction.stat(self._items)["entries"], self._last(transaction)))

    async def rows(self, bundle_id: str, ids: Sequence[str]) -> list[bytes | None]:
        keys = [_row_key(bundle_id, item_id) for item_id in ids]
        return self._read(lambda transaction: [_bytes(transaction.get(key, db=self._rows)) for key in keys])

    async def put_rows(self, bundle_id: str, rows: Mapping[str, bytes | None]) -> None:
        await self._in_thread(self._put_rows, bundle_id, rows)

    async def keep_rows_of(self, bundle_ids: Sequence[str]) -> None:
        await self._in_thread(self._keep_rows_of, bundle_ids)

    async def close(self) -> None:
        self._thread.shutdown()
        self._env.close()

    async def _in_thread(self, work: Callable[..., Result], *arguments: object) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        except lmdb.Error as error:
            raise CatalogueError(f"{self._folder}: the catalogue cannot be written ({error})") from error

    def _read(self, read: Callable[[lmdb.Transaction], Result]) -> Result:
        try:
            with self._env.begin() as transaction:
                return read(transaction)
        except lmdb.Error as error:
            raise CatalogueError(f"{self._folder}: the catalogue cannot be read ({error})") from error

    def _item(self, transaction: lmdb.Transaction, item_id: str) -> Item | None:
        held = transaction.get(_key(item_id), db=self._items)
        return None if held is None else unpack_item(item_id, bytes(held)[_NUMBER.size :])

    def _last(self, transaction: lmdb.Transaction) -> int:
        held = transaction.get(_LAST, db=self._about)
        return 0 if held is None else int(bytes(held))

    # In the thread that writes

    def _edit(self, ids: Sequence[str], decide: Decide) -> int:
        with self._env.begin(write=True) as transaction:
            held, last = [self._item(transaction, item_id) for item_id in ids], self._last(transaction)
            before = transaction.stat(self._items)["entries"]
            for item_id, item in decide(held).items():
                last += item is not None
                self._put(transaction, item_id, item, last)
            transaction.put(_LAST, b"%d" % last, db=self._about)
            if transaction.stat(self._items)["entries"] > max(self._most, before):
                raise CatalogueFull(f"the catalogue has room for {self._most} items, MSD_CATALOGUE_ITEMS")
            return last

    def _put(self, transaction: lmdb.Transaction, item_id: str, item: Item | None, number: int) -> None:
        key = _key(item_id)
        before = transaction.get(key, db=self._items)
        if before is not None:
            held = unpack_item(item_id, bytes(before)[_NUMBER.size :])
            transaction.delete(bytes(before)[: _NUMBER.size] + key, db=self._orders["changed"])
            for order, place in held.places.items() if held else ():
                transaction.delete(_NUMBER.pack(place) + key, db=self._orders[order])
            if held is None:
                self._drop_places(transaction, item_id)
        if item is None:
            transaction.delete(key, db=self._items)
            return
        transaction.put(_NUMBER.pack(number) + key, item_id.encode(), db=self._orders["changed"])
        transaction.put(key, _NUMBER.pack(number) + item.pack(), db=self._items)
        for order, place in item.places.items():
            transaction.put(_NUMBER.pack(place) + key, item_id.encode(), db=self._orders[order])

    def _drop_places(self, transaction: lmdb.Transaction, item_id: str) -> None:
        """Remove a damaged item, which tells no places, from all orders."""
        for order in self._orders.values():
            with transaction.cursor(order) as cursor:
                at = cursor.first()
                while at:
                    at = cursor.delete() if bytes(cursor.value()) == item_id.encode() else cursor.next()

    def _put_rows(self, bundle_id: str, rows: Mapping[str, bytes | None]) -> None:
        with self._env.begin(write=True) as transaction:
            for item_id, row in rows.items():
                key = _row_key(bundle_id, item_id)
                if row is None:
                    transaction.delete(key, db=self._rows)
                else:
                    transaction.put(key, row, db=self._rows)

    def _keep_rows_of(self, bundle_ids: Sequence[str]) -> None:
        now = time.time()
        with self._env.begin(write=True) as transaction:
            for bundle_id in bundle_ids:
                transaction.put(_USED + _tag(bundle_id), _NUMBER.pack(now), db=self._about)
            with transaction.cursor(self._about) as cursor:
                at = cursor.set_range(_USED)
                while at and bytes(cursor.key()).startswith(_USED):
                    if _NUMBER.unpack(bytes(cursor.value()))[0] < now - _UNUSED_S:
                        self._drop_rows(transaction, bytes(cursor.key())[len(_USED) :])
                        at = cursor.delete()
                    else:
                        at = cursor.next()

    def _drop_rows(self, transaction: lmdb.Transaction, tag: bytes) -> None:
        with transaction.cursor(self._rows) as cursor:
            at = cursor.set_range(tag)
            while at and bytes(cursor.key()).startswith(tag):
                cursor.delete()
                at = bool(cursor.key())


def _key(item_id: str) -> bytes:
    """Return the ID, or its digest if it is too long; in either case no other's."""
    encoded = item_id.encode()
    if len(encoded) <= _MAX_KEY_BYTES:
        return b"=" + encoded
    return b"#" + hashlib.blake2b(encoded, digest_size=32).digest()


def _tag(bundle_id: str) -> bytes:
    return bundle_id[:_TAG].encode()


def _row_key(bundle_id: str, item_id: str) -> bytes:
    return _tag(bundle_id) + _key(item_id)


def _bytes(value: bytes | memoryview | None) -> bytes | None:
    return None if value is None else bytes(value)
