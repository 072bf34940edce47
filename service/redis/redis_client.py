"""A client of redis-py for any form of Redis URL, and the few commands that are another in a cluster.

For commands that people run; the service reads over its own connections (`stores`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from redis import Redis, Sentinel
from redis.client import Pipeline
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import ConnectionPool, SSLConnection, parse_url
from redis.exceptions import RedisClusterException, RedisError

from service.redis.redis_url import RedisUrl

# Not every one of redis-py's errors is a RedisError.
CLIENT_ERRORS: tuple[type[Exception], ...] = (RedisError, RedisClusterException)


def connect(url: RedisUrl, timeout_s: float) -> Redis:
    """A client; one of a cluster has been there already. A RedisCluster has all methods of a Redis that are used here.
    Raises TypeError or ValueError for an option that cannot be, and one of CLIENT_ERRORS."""
    limits = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    ConnectionPool.from_url(url.of_server(("", 0))).make_connection()
    if url.form == "server":
        return Redis.from_url(url.plain, **limits)
    options = {**limits, **_options(url.of_server(("", 0)))}
    if url.form == "cluster":
        del options["db"]
        nodes = [ClusterNode(host, port) for host, port in url.hosts]  # type: ignore[no-untyped-call]
        return cast(Redis, RedisCluster(startup_nodes=nodes, **options))
    own = {**limits, **_options(url.of_sentinel(("", 0)))}
    sentinel = Sentinel(url.hosts, sentinel_kwargs=own)  # type: ignore[no-untyped-call]
    return cast(Redis, sentinel.master_for(url.master, **options))  # type: ignore[no-untyped-call]


def set_all(client: Redis, pipeline: Pipeline, values: Mapping[bytes, bytes]) -> None:
    """Sets keys in a pipeline; in a cluster one by one, for they are of many slots."""
    if not isinstance(client, RedisCluster):
        pipeline.mset(values)
        return
    for key, value in values.items():
        pipeline.set(key, value)


def get_all(client: Redis, keys: Sequence[str] | Sequence[bytes]) -> list[bytes | None]:
    """The values of keys, in their order."""
    read = client.mget_nonatomic if isinstance(client, RedisCluster) else client.mget
    return cast("list[bytes | None]", read(keys))


def _options(url: str) -> dict[str, Any]:
    """What a URL says beside where it leads."""
    options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    is_tls = options.pop("connection_class", None) is SSLConnection
    for name in ("host", "port"):
        options.pop(name, None)
    return {**options, "ssl": True} if is_tls else options
