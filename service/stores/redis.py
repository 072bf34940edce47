"""Rows from Redis, where `msd publish` puts them: one MGET a call, in the namespace of the bundle that made them.

Knows keys and commands. Does not know what a row holds, nor what becomes of a request whose rows are not to be had.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from msd.contract.bundle import Bundle
from msd.contract.rows import RowCodec, Rows, RowSide
from service.settings import redis_address
from service.stores.store import StoreError

POINTER = "msd:bundle"
PREVIOUS = "msd:bundle:previous"
_LETTERS: Mapping[RowSide, str] = {"user": "u", "item": "i"}
_MAX_CONNECTIONS = 32


def key_prefix(bundle_id: str, side: RowSide) -> str:
    """What the keys of one side of one bundle begin with; the id follows."""
    return f"msd:{bundle_id}:{_LETTERS[side]}:"


class RedisStore:
    """Reads rows with an asyncio client. Connects when first used, and again whenever a connection was lost."""

    name = "redis"

    def __init__(self, bundle: Bundle, url: str, timeout_s: float) -> None:
        self._bundle_id = bundle.bundle_id
        self._codecs: dict[RowSide, RowCodec] = {
            side: RowCodec(bundle.schema, side, bundle.bundle_id) for side in _LETTERS
        }
        self._prefixes: dict[RowSide, str] = {side: key_prefix(bundle.bundle_id, side) for side in _LETTERS}
        self._address = redis_address(url)
        self._timeout_s = timeout_s
        self._redis = Redis.from_pool(_pool(url, timeout_s))

    async def get(self, side: RowSide, ids: Sequence[str]) -> Rows:
        """The rows of `ids`, by one MGET. Raises StoreError after the time limit at the latest."""
        codec = self._codecs[side]
        if not ids:
            return codec.unpack([])
        prefix = self._prefixes[side]
        try:
            async with asyncio.timeout(self._timeout_s):
                values = cast("list[bytes | None]", await self._redis.mget([prefix + one for one in ids]))
        except (RedisError, OSError) as error:
            raise StoreError(self._explain(error)) from error
        return codec.unpack(values)

    async def check(self) -> None:
        """Raises StoreError when Redis does not answer, or when `msd publish` last pointed it to another bundle."""
        try:
            async with asyncio.timeout(self._timeout_s):
                value = cast("bytes | None", await self._redis.get(POINTER))
        except (RedisError, OSError) as error:
            raise StoreError(self._explain(error)) from error
        found = None if value is None else value.decode("utf-8", "replace")
        if found != self._bundle_id:
            holds = "no bundle" if found is None else f"bundle {found}"
            raise StoreError(
                f"Redis at {self._address} holds {holds}, this service needs {self._bundle_id}:"
                " run `msd publish BUNDLE --redis URL` with this bundle"
            )

    async def close(self) -> None:
        """Closes all connections."""
        await self._redis.aclose()

    def _explain(self, error: Exception) -> str:
        # Redis's own messages name no credentials; those of the operating system name the address at most.
        if isinstance(error, TimeoutError | RedisTimeoutError):
            return f"Redis at {self._address} did not answer within {self._timeout_s * 1000:g} ms"
        return f"Redis at {self._address}: {type(error).__name__}: {error}"


def _pool(url: str, timeout_s: float) -> BlockingConnectionPool:
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            max_connections=_MAX_CONNECTIONS,
            # Once, at once, after a broken connection only: when Redis was restarted, every pooled one is broken.
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )
        pool.make_connection()  # type: ignore[no-untyped-call]  # not yet to the network, but the URL's options are looked at
    except (TypeError, ValueError) as error:
        raise StoreError(f"the Redis URL has an option that cannot be: {error}") from error
    return pool
