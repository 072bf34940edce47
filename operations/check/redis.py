"""Checks of Redis: reachable, enough memory, no eviction, client tracking, pointer to the wanted bundle, and clock."""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from redis import Redis
from redis.cluster import RedisCluster
from redis.exceptions import RedisError

from msd.contract.bundle import Bundle
from operations.check.findings import Finding, Group
from service.redis.keys import POINTER, rows_key
from service.redis.publication import CLIENT_ERRORS, connect
from service.redis.redis_url import parse_redis_url
from service.settings import Settings

_TIMEOUT_S = 3.0
_SKEW_S = 1.0
_FULL = 0.9
_T = TypeVar("_T")
_FAILURES: tuple[type[Exception], ...] = (*CLIENT_ERRORS, OSError, TypeError, ValueError)


def look_at_redis(settings: Settings, bundles: Sequence[Bundle]) -> list[Finding]:
    """Check Redis, if it is used."""
    group = Group("redis")
    if settings.redis_url is None:
        return group.findings
    if settings.store != "redis":
        group.note("MSD_STORE is file", "rows come from the bundle, not from MSD_REDIS_URL", "set MSD_STORE=redis")
        return group.findings
    url = parse_redis_url(settings.redis_url.get_secret_value())
    try:
        client = connect(url, _TIMEOUT_S)
        client.ping()
    except _FAILURES as error:
        group.error(
            f"{url.address}: {type(error).__name__}: {error}",
            "the service does not become ready, or scores from cached rows",
            "start it, or fix MSD_REDIS_URL: host, port, user, password, TLS",
        )
        return group.findings
    group.ok(f"{url.address} answers")
    nodes = {url.address: client}
    if isinstance(client, RedisCluster):
        nodes = {node.name: client.get_redis_connection(node) for node in client.get_primaries()}
    for name, node in nodes.items():
        info = _asked(group, name, "INFO", node.info)
        if info is not None:
            _memory(group, name, info)
            if settings.live:
                _persistence(group, name, info)
        _clock(group, name, node)
        if settings.cache_mb:
            _tracking(group, name, node)
    _rows(group, client, bundles)
    return group.findings


def _asked(group: Group, server: str, command: str, ask: Callable[[], _T]) -> _T | None:
    try:
        return ask()
    except RedisError as error:
        group.note(
            f"{server}: {command} is not answered: {error}",
            "this was not checked",
            f"run this as a user with permission for {command}, such as an administrator",
        )
        return None


def _memory(group: Group, server: str, info: dict[str, Any]) -> None:
    policy, used, most = (info.get(name) for name in ("maxmemory_policy", "used_memory", "maxmemory"))
    if policy != "noeviction":
        tell = group.error if str(policy).startswith("allkeys") else group.warning
        tell(
            f"{server}: maxmemory-policy is {policy}",
            "rows and live states that look unused are evicted, and users and items count as unknown",
            "CONFIG SET maxmemory-policy noeviction, and the same in its configuration file",
        )
    if most and used and int(used) > _FULL * int(most):
        group.warning(
            f"{server}: {int(used) / int(most):.0%} of maxmemory is used",
            "publications and events are rejected once memory is full",
            "raise maxmemory, or remove other data",
        )
    elif policy == "noeviction":
        group.ok(f"{server}: no eviction")


def _persistence(group: Group, server: str, info: dict[str, Any]) -> None:
    if int(info.get("aof_enabled", 0)):
        group.ok(f"{server}: live states are persistent (appendonly)")
        return
    group.warning(
        f"{server}: appendonly is off",
        "a restart of Redis loses events and live states since its last dump, or all of them",
        "CONFIG SET appendonly yes, and the same in its configuration file",
    )


def _clock(group: Group, server: str, client: Redis) -> None:
    before = time.time()
    found = _asked(group, server, "TIME", client.time)
    if found is None:
        return
    skew = found[0] + found[1] / 1e6 - (before + time.time()) / 2
    if abs(skew) > _SKEW_S:
        group.warning(
            f"{server}: its clock differs by {skew:+.1f} s",
            "ages of rows and states are wrong, and events count as late or early",
            "synchronise both machines with NTP",
        )
    else:
        group.ok(f"{server}: its clock agrees")


def _tracking(group: Group, server: str, client: Redis) -> None:
    """Check client tracking with a command that a capable server rejects only for its syntax."""
    try:
        client.execute_command("CLIENT", "TRACKING", "ON", "REDIRECT", "0", "BCAST")  # type: ignore[no-untyped-call]
        client.execute_command("CLIENT", "TRACKING", "OFF")  # type: ignore[no-untyped-call]
    except RedisError as error:
        if any(word in str(error).lower() for word in ("permission", "noperm", "unknown")):
            group.error(
                f"{server}: client tracking fails: {error}",
                "a service that caches rows (MSD_CACHE_MB) never becomes ready",
                "allow +client|tracking to its user, or set MSD_CACHE_MB=0",
            )
            return
    group.ok(f"{server}: client tracking works")


def _rows(group: Group, client: Redis, bundles: Sequence[Bundle]) -> None:
    try:
        pointer = cast("bytes | None", client.get(POINTER))
        published = None if pointer is None else pointer.decode("ascii", "replace")
        rows = None if published is None else client.get(rows_key(published))
    except RedisError as error:
        group.error(
            f"the pointer cannot be read: {error}", "rows cannot be read either", "allow +get and +mget on ~msd:*"
        )
        return
    wanted = {bundle.bundle_id for bundle in bundles}
    if published is None:
        group.error("no rows are published", "the service does not become ready", "run `msd publish BUNDLE`")
    elif wanted and published not in wanted:
        group.error(
            f"Redis points to bundle {published}, but the service is to serve {', '.join(sorted(wanted))}",
            "a service never scores with rows of another bundle and does not become ready",
            "publish the bundle to be served, or serve the published one",
        )
    elif rows is None:
        group.warning(
            "a publication is in progress, or was interrupted",
            "the rows are in an unknown state, so no delta applies",
            "run `msd publish BUNDLE` again",
        )
    else:
        group.ok(f"rows of bundle {published} are published")
