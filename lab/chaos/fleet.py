"""Groups of Redis-compatible servers: a master, its replica and Sentinels; a cluster. Configured to fail over within
seconds.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from redis.exceptions import RedisError

from lab.bench.redis import FORGETFUL, RedisProcess
from loadtest.http_client import wait_until
from msd.free_port import free_port

_NODES, _SLOTS = 3, 16_384
# A late replica is synchronised at once, so that it may take over.
_QUICK = (*FORGETFUL, "--repl-diskless-sync-delay", "0", "--repl-timeout", "5")
_until = partial(wait_until, not_yet=RedisError)


class Fleet(NamedTuple):
    """URL for services and publications, and the servers; each master's replica is at its place."""

    url: str
    masters: list[RedisProcess]
    replicas: list[RedisProcess]
    sentinels: list[RedisProcess]


@contextmanager
def sentinels(folder: Path) -> Iterator[Fleet]:
    """Start a master, a replica, and three Sentinels. Raises MsdError if they do not start."""
    with ExitStack() as stack:
        master = stack.enter_context(RedisProcess(folder / "master", *_QUICK))
        of_master = ("--replicaof", f"127.0.0.1 {master.port}")
        replica = stack.enter_context(RedisProcess(folder / "replica", *_QUICK, *of_master))
        _until("the replica follows", lambda: _follows(replica))
        watchers = []
        for number in range(3):
            place = folder / f"sentinel{number}"
            place.mkdir(parents=True)
            (place / "sentinel.conf").write_text(
                f"sentinel monitor ads 127.0.0.1 {master.port} 2\n"
                "sentinel down-after-milliseconds ads 1000\n"
                "sentinel failover-timeout ads 4000\n"
            )
            watchers.append(stack.enter_context(RedisProcess(place, "sentinel.conf", "--sentinel")))
        _until("Sentinels know each other", lambda: all(map(_knows_all, watchers)))
        hosts = ",".join(f"127.0.0.1:{watcher.port}" for watcher in watchers)
        yield Fleet(f"redis+sentinel://{hosts}/ads/0", [master], [replica], watchers)


@contextmanager
def cluster(folder: Path) -> Iterator[Fleet]:
    """Start three masters with a replica each. Raises MsdError if they do not start."""
    with ExitStack() as stack:
        pairs = [stack.enter_context(_node(folder / f"node{number}")) for number in range(2 * _NODES)]
        nodes = [node for node, _ in pairs]
        masters, replicas = nodes[:_NODES], nodes[_NODES:]
        for number, node in enumerate(nodes, start=1):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number)
        for number, master in enumerate(masters):
            master.ask("CLUSTER", "ADDSLOTSRANGE", _SLOTS * number // _NODES, _SLOTS * (number + 1) // _NODES - 1)
        for node, bus in pairs[1:]:
            nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        _until("nodes meet", lambda: all(_cluster(node)["cluster_known_nodes"] == str(len(nodes)) for node in nodes))
        for master, replica in zip(masters, replicas, strict=True):
            # Nodes discover each other one by one.
            command = ("CLUSTER", "REPLICATE", master.ask("CLUSTER", "MYID").decode())
            _until("a replica knows its master", partial(replica.ask, *command))
        _until("the cluster is well", lambda: all(_cluster(node)["cluster_state"] == "ok" for node in nodes))
        _until("replicas follow", lambda: all(map(_follows, replicas)))
        hosts = ",".join(f"127.0.0.1:{master.port}" for master in masters[1:])
        yield Fleet(f"redis+cluster://{hosts}", masters, replicas, [])


@contextmanager
def _node(folder: Path) -> Iterator[tuple[RedisProcess, int]]:
    """Start a server, with the port of the cluster bus."""
    bus = free_port()
    own = ("--cluster-enabled", "yes", "--cluster-node-timeout", 1500, "--cluster-port", bus)
    with RedisProcess(folder, *_QUICK, *own) as started:
        yield started, bus


def _follows(replica: RedisProcess) -> bool:
    with replica.client() as client:
        return bool(client.info("replication").get("master_link_status") == "up")


def _knows_all(sentinel: RedisProcess) -> bool:
    with sentinel.client() as client:
        (master,) = client.sentinel_masters().values()
    return bool(master["num-slaves"] == 1 and master["num-other-sentinels"] == 2)


def _cluster(node: RedisProcess) -> dict[str, str]:
    text = node.ask("CLUSTER", "INFO")
    return text if isinstance(text, dict) else dict(line.split(":", 1) for line in text.decode().split())
