"""The live catalogue in Redis: items in one hash, changed by a script that compares what was read; rows among those of
their bundle, where every service reads them and hears of changes.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import hiredis

from service.catalogue.item import CatalogueError, CatalogueFull, Decide, Item, Order, unpack_item
from service.redis.keys import ITEMS, ITEMS_LAST, items_order, key_prefix
from service.redis.redis_line import pack
from service.redis.redis_link import Command
from service.redis.topology import open_nodes

_TIMEOUT_S = 5.0
_ORDERS: tuple[Order, ...] = ("due", "gone", "waiting")
_KEYS = [key.encode() for key in (ITEMS, ITEMS_LAST, items_order("changed"), *map(items_order, _ORDERS))]
# Items read at once: of the longest, Redis copies 3 MB.
_SOME = 50
_FULL = b"full"
_EDIT = rb"""
-- KEYS: items, the last change's number, the orders: changed, due, gone, waiting. ARGV: the most items; then of each
-- item its ID, the number of its change that was read, what is to be kept, and its places in the last three orders;
-- nothing is ''. Returns the last change's number, -1 if an item is another by now, or 'full'. Then nothing is written.
local before, added = redis.call('HLEN', KEYS[1]), 0
for at = 2, #ARGV, 6 do
  if (redis.call('ZSCORE', KEYS[3], ARGV[at]) or '') ~= ARGV[at + 1] then return -1 end
  local is_held = redis.call('HEXISTS', KEYS[1], ARGV[at])
  if is_held == 0 and ARGV[at + 2] ~= '' then added = added + 1 end
  if is_held == 1 and ARGV[at + 2] == '' then added = added - 1 end
end
if added > 0 and before + added > tonumber(ARGV[1]) then return 'full' end
-- Without memory the first write is refused, and behind another none: this one has to be the first.
redis.call('INCRBY', KEYS[2], 0)
for at = 2, #ARGV, 6 do
  local id = ARGV[at]
  for order = 3, 6 do redis.call('ZREM', KEYS[order], id) end
  if ARGV[at + 2] == '' then
    redis.call('HDEL', KEYS[1], id)
  else
    redis.call('HSET', KEYS[1], id, ARGV[at + 2])
    redis.call('ZADD', KEYS[3], redis.call('INCR', KEYS[2]), id)
    for order = 4, 6 do
      local place = ARGV[at + order - 1]
      if place ~= '' then redis.call('ZADD', KEYS[order], place, id) end
    end
  end
end
return tonumber(redis.call('GET', KEYS[2]))
"""


class RedisItems:
    """The catalogue of all services of one Redis, with at most `most` items."""

    def __init__(self, url: str, most: int) -> None:
        self._most = most
        self._nodes = open_nodes(url, _TIMEOUT_S)

    async def edit(self, ids: Sequence[str], decide: Decide) -> int:
        while True:
            # Before the items: if they change in between, the numbers are those of older ones.
            names = [item_id.encode() for item_id in ids]
            numbers = await self._ask(b"ZMSCORE", items_order("changed").encode(), *names)
            arguments = await asyncio.to_thread(self._arguments, ids, await self._packed(ids), numbers, decide)
            if len(arguments) == 1:
                return (await self.size())[1]
            done = await self._ask(b"EVAL", _EDIT, b"%d" % len(_KEYS), *_KEYS, *arguments)
            if done == _FULL:
                raise CatalogueFull(f"the catalogue has room for {self._most} items, MSD_CATALOGUE_ITEMS")
            if done >= 0:
                return int(done)

    def _arguments(
        self, ids: Sequence[str], packed: Sequence[bytes | None], numbers: Sequence[Any], decide: Decide
    ) -> list[bytes]:
        """Return the script's. Not for the event loop: long items take a while."""
        changed = decide([unpack_item(*held) for held in zip(ids, packed, strict=True)])
        before = dict(zip(ids, numbers, strict=True))
        arguments = [b"%d" % self._most]
        for item_id, item in changed.items():
            number, places = before[item_id], {} if item is None else item.places
            arguments += [item_id.encode(), b"" if number is None else b"%d" % float(number)]
            arguments.append(b"" if item is None else item.pack())
            arguments += [repr(places[order]).encode() if order in places else b"" for order in _ORDERS]
        return arguments

    async def items(self, ids: Sequence[str]) -> list[Item | None]:
        packed = await self._packed(ids)
        return await asyncio.to_thread(lambda: [unpack_item(*held) for held in zip(ids, packed, strict=True)])

    async def ordered(self, order: Order, after: float, most: int) -> list[tuple[float, str]]:
        key, least = items_order(order).encode(), f"({after!r}".encode()
        found = await self._ask(b"ZRANGEBYSCORE", key, least, b"+inf", b"WITHSCORES", b"LIMIT", b"0", b"%d" % most)
        # Places are numbers in RESP3, and words in RESP2.
        flat = [part for pair in found for part in pair] if found and isinstance(found[0], list) else found
        return [(float(place), one.decode(errors="replace")) for one, place in zip(flat[::2], flat[1::2], strict=True)]

    async def size(self) -> tuple[int, int]:
        last = await self._ask(b"GET", ITEMS_LAST.encode())
        return int(await self._ask(b"HLEN", ITEMS.encode())), int(last or 0)

    async def rows(self, bundle_id: str, ids: Sequence[str]) -> list[bytes | None]:
        prefix = key_prefix(bundle_id, "item").encode()
        keys = [prefix + item_id.encode() for item_id in ids]
        return await self._ask_all([Command(key, pack(b"GET", key)) for key in keys])

    async def put_rows(self, bundle_id: str, rows: Mapping[str, bytes | None]) -> None:
        prefix, commands = key_prefix(bundle_id, "item").encode(), []
        for item_id, row in rows.items():
            key = prefix + item_id.encode()
            commands.append(Command(key, pack(b"UNLINK", key) if row is None else pack(b"SET", key, row)))
        await self._ask_all(commands)

    async def keep_rows_of(self, bundle_ids: Sequence[str]) -> None:
        """Nothing: `msd publish` removes the rows of other bundles."""

    async def close(self) -> None:
        await self._nodes.close()

    async def _packed(self, ids: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for start in range(0, len(ids), _SOME):
            names = [item_id.encode() for item_id in ids[start : start + _SOME]]
            found += await self._ask(b"HMGET", ITEMS.encode(), *names)
        return found

    async def _ask(self, *command: bytes) -> Any:  # noqa: ANN401 - any reply
        (reply,) = await self._ask_all([Command(_KEYS[0], pack(*command))])
        return reply

    async def _ask_all(self, commands: Sequence[Command]) -> list[Any]:
        replies: list[Any] = [None] * len(commands)

        def accept(at: Sequence[int], found: Sequence[Any], epoch: int) -> None:
            for place, reply in zip(at, found, strict=True):
                replies[place] = reply

        answers = await self._nodes.ask(commands, accept)
        wrong = next((reply for reply in replies if isinstance(reply, hiredis.ReplyError)), answers.error)
        if wrong is not None:
            raise CatalogueError(f"Redis at {self._nodes.address}: {wrong}")
        return replies
