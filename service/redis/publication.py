"""Publishing: one at a time, by a lock in Redis, with redis-py's client for any Redis URL.

For operator commands and pointers; the service reads rows over its own connections. Does not know what is published.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

from redis import Redis, Sentinel
from redis._parsers import _RESP2Parser
from redis.client import Pipeline
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import ConnectionPool, SSLConnection, parse_url
from redis.exceptions import LockError, RedisClusterException, RedisError
from redis.lock import Lock

from msd.contract.errors import MsdError
from service.redis.keys import LOCK
from service.redis.redis_url import RedisUrl, parse_redis_url

_TIMEOUT_S = 10.0
_LOCK_S = 60.0
# Not all of redis-py's errors are RedisErrors.
CLIENT_ERRORS: tuple[type[Exception], ...] = (RedisError, RedisClusterException)


class PublishError(MsdError):
    """Publishing failed; the pointer has not moved."""


class Publication:
    """A publication in progress, which holds the lock."""

    def __init__(self, redis: Redis, address: str, lock: Lock) -> None:
        self.redis = redis
        self.address = address
        self._lock = lock

    def renew(self) -> None:
        """Extend the lock. Raises PublishError if another process holds it by now."""
        try:
            self._lock.reacquire()
        except LockError:
            raise PublishError(
                f"Redis at {self.address}: the lock {LOCK} was lost to another publication; retry after it"
            ) from None


@contextmanager
def publication(url: str) -> Iterator[Publication]:
    """Connect and hold the lock for the block. Every failure is a PublishError."""
    try:
        parsed = parse_redis_url(url)
        client = connect(parsed, _TIMEOUT_S)
    except (TypeError, ValueError) as error:
        raise PublishError(f"--redis: {error}") from None
    except CLIENT_ERRORS as error:  # a cluster's client connects when it is made
        raise _failed(parsed.address, error) from error
    address = parsed.address
    try:
        with client as redis:
            lock = redis.lock(LOCK, timeout=_LOCK_S, blocking=False, thread_local=False)
            if not lock.acquire():
                left = max(0, cast(int, redis.pttl(LOCK))) / 1000
                raise PublishError(
                    f"Redis at {address}: another publication is in progress; retry after it. If it died,"
                    f" its lock {LOCK} expires in {left:.0f} s"
                )
            try:
                yield Publication(redis, address, lock)
            finally:
                # Unless another process holds it by now.
                with suppress(*CLIENT_ERRORS):
                    lock.release()
    except CLIENT_ERRORS as error:
        raise _failed(address, error) from error


def _failed(address: str, error: Exception) -> PublishError:
    return PublishError(
        f"Redis at {address}: {type(error).__name__}: {error}; the rows are not published, run it again"
    )


def connect(url: RedisUrl, timeout_s: float) -> Redis:
    """Return a client; a cluster's has connected already.

    RedisCluster has all methods of Redis that are used here. Raises TypeError or ValueError for an invalid option, and
    one of CLIENT_ERRORS.
    """
    # Python's parser reads element by element; hiredis allocates whatever a reply claims, and a service reads its
    # pointer with this client. A cluster's client always uses Python's.
    limits = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "parser_class": _RESP2Parser}
    ConnectionPool.from_url(url.of_server(("", 0))).make_connection()
    if url.form == "server":
        return Redis.from_url(url.plain, **limits)
    options = {**limits, **_options(url.of_server(("", 0)))}
    if url.form == "cluster":
        del options["db"], options["parser_class"]
        nodes = [ClusterNode(host, port) for host, port in url.hosts]  # type: ignore[no-untyped-call]
        return cast(Redis, RedisCluster(startup_nodes=nodes, **options))
    sentinel = Sentinel([])
    sentinel.sentinels = [Redis.from_url(url.of_sentinel(host), **limits) for host in url.hosts]
    return cast(Redis, sentinel.master_for(url.master, **options))


def set_all(client: Redis, pipeline: Pipeline, values: Mapping[bytes, bytes]) -> None:
    """Set keys in a pipeline; in a cluster one by one, because they are in many slots."""
    if not isinstance(client, RedisCluster):
        pipeline.mset(values)
        return
    for key, value in values.items():
        pipeline.set(key, value)


def get_all(client: Redis, keys: Sequence[str] | Sequence[bytes]) -> list[bytes | None]:
    read = client.mget_nonatomic if isinstance(client, RedisCluster) else client.mget
    return cast("list[bytes | None]", read(keys))


def _options(url: str) -> dict[str, Any]:
    options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    is_tls = options.pop("connection_class", None) is SSLConnection
    for name in ("host", "port"):
        options.pop(name, None)
    return {**options, "ssl": True} if is_tls else options
