"""What a client can hold of the service, and how long: connections, requests that wait, replies that are not read."""

import json
import os
import re
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from select import select

import pytest

from msd.contract.bundle import Bundle
from tests.bundles.factory import golden_requests
from tests.service.live import LiveService, freeze, live_service, wait_until
from tests.service.wire import GOOD, HEAD, but, talk

CONNECTIONS = 4
BODY = but()
POST = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
LAST = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


@pytest.fixture(scope="module")
def narrow(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service of few connections."""
    with live_service(bundle.folder, tmp_path_factory.mktemp("narrow"), max_connections=CONNECTIONS) as running:
        yield running


@pytest.fixture(scope="module")
def hasty(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """For clients that are too slow."""
    with live_service(
        bundle.folder,
        tmp_path_factory.mktemp("hasty"),
        HEAD_TIMEOUT_S=1.5,
        BODY_TIMEOUT_S=0.4,
        REPLY_TIMEOUT_S=0.3,
    ) as running:
        yield running


def closed(service: LiveService, reason: str) -> float:
    return service.metric(f'msd_connections_closed_total{{reason="{reason}"}}')


def connect(service: LiveService) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=60)


def answers(connection: socket.socket, count: int) -> None:
    seen = b""
    while seen.count(b"HTTP/1.1 200 ") < count or not seen.endswith(b"}"):
        came = connection.recv(65_536)
        assert came, seen
        seen += came


def test_new_client_takes_the_place_of_an_idle_one(narrow: LiveService) -> None:
    before = closed(narrow, "made_room")
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            kept = stack.enter_context(connect(narrow))
            kept.sendall(POST)
            answers(kept, 1)
        assert narrow.score(golden_requests()[0]).status_code == 200
        assert closed(narrow, "made_room") > before


@pytest.mark.parametrize("requests", [0, 1])
def test_client_whose_request_is_there_keeps_its_place(narrow: LiveService, requests: int) -> None:
    """Its request came after the client that needs a place, and is not read yet."""
    with ExitStack() as stack:
        held = [stack.enter_context(connect(narrow)) for _ in range(CONNECTIONS)]
        for client in [*held[: (CONNECTIONS - 1) * requests], held[-1]]:
            client.sendall(POST)
            answers(client, 1)
        freeze(narrow.process.pid)
        try:
            another = stack.enter_context(connect(narrow))
            held[0].sendall(POST)
        finally:
            os.kill(narrow.process.pid, signal.SIGCONT)
        answers(held[0], 1)
        another.sendall(POST)
        answers(another, 1)
        assert held[1].recv(1) == b""


@pytest.mark.parametrize("sent", [b"", b"GET /health/live HTTP/1.1\r\nX: ", HEAD + b"Content-Length: 9\r\n\r\n{"])
def test_clients_that_do_not_ask_in_full_keep_nobody_out(narrow: LiveService, sent: bytes) -> None:
    """The oldest of them goes for whoever comes next."""
    before = closed(narrow, "made_room")
    with ExitStack() as stack:
        held = [stack.enter_context(connect(narrow)) for _ in range(3 * CONNECTIONS)]
        for client in held:
            # Those that had to go for the next are closed already.
            with suppress(ConnectionError):
                client.sendall(sent)
        for _ in range(10):
            with narrow.client() as other:
                assert other.get("/health/live").status_code == 200
        assert closed(narrow, "made_room") > before
        with suppress(ConnectionError):
            while held[0].recv(1_000):
                pass


def test_client_that_is_being_answered_keeps_its_place(bundle: Bundle, tmp_path: Path) -> None:
    """If every place is taken so, the next client has to come again."""
    big = b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"
    with (
        live_service(bundle.folder, tmp_path, max_connections=CONNECTIONS, REPLY_TIMEOUT_S=600) as service,
        ExitStack() as stack,
    ):
        for _ in range(CONNECTIONS):
            client = stack.enter_context(connect(service))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.sendall(big * 20 + b"GET /and-a-part-of HTT")
            assert client.recv(15).startswith(b"HTTP/1.1 200")
        with connect(service) as another:
            assert another.recv(100) == b""
        stack.close()
        wait_until(lambda: closed(service, "full") > 0)


def test_silent_client_is_sent_away(hasty: LiveService) -> None:
    assert talk(hasty) == b""
    assert talk(hasty, b"GET /health/live HTT") == b""


def test_client_that_reads_no_reply_is_sent_away(hasty: LiveService) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.connect(("127.0.0.1", hasty.port))
        connection.sendall(b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 9)
        wait_until(lambda: closed(hasty, "slow_reader") > 0)


def test_requests_may_wait_on_a_connection_but_not_too_many(narrow: LiveService) -> None:
    assert talk(narrow, POST * 30 + LAST).count(b"HTTP/1.1 200 ") == 31
    answer = talk(narrow, POST * 300)
    assert answer.count(b"HTTP/1.1 200 ") < 300
    assert b"requests wait on this connection" in answer.rpartition(b"HTTP/1.1 400 ")[2]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n", 408),
        (b"POST /health/live HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 408),
        (HEAD + b"Content-Length: 90000\r\n\r\n", 408),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", 408),
        (b"GET /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 90000000\r\n\r\n", 413),
    ],
)
def test_no_route_waits_for_a_body_without_end(hasty: LiveService, head: bytes, status: int) -> None:
    with connect(hasty) as connection:
        connection.sendall(head)
        while not select([connection], [], [], 0.01)[0]:
            connection.sendall(b"1\r\n \r\n")
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))

    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert (b"connection: close" in answer) == (b'"code":"body_timeout"' in answer) == (status == 408)


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
FRAMING = {
    "chunks of one byte": b"1\r\n \r\n" * 100_000,
    "an extension without end": b"1;" + b"x" * 3_000_000,
    "extensions": (b"1;" + b"x" * 10_000 + b"\r\n \r\n") * 300,
    "a trailer without end": b"0\r\na: " + b"x" * 3_000_000,
    "many trailers": b"0\r\n" + b"a: b\r\n" * 100_000,
}


@pytest.mark.parametrize("name", FRAMING)
def test_framing_of_a_body_is_bounded(narrow: LiveService, name: str) -> None:
    """And its client, who is still sending, reads why."""
    before = closed(narrow, "bad_http")
    pieces = [FRAMING[name][start : start + 2**17] for start in range(0, len(FRAMING[name]), 2**17)]
    answer = talk(narrow, CHUNKED, *pieces)

    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
    assert b"connection: close" in answer
    assert closed(narrow, "bad_http") == before + 1


def test_client_that_ends_within_its_body_is_not(narrow: LiveService) -> None:
    with connect(narrow) as connection:
        connection.sendall(POST + POST[:-1])
        connection.shutdown(socket.SHUT_WR)
        assert b"".join(iter(lambda: connection.recv(65_536), b"")).count(b"HTTP/1.1 ") == 1


def test_service_is_whole_after_it_all(narrow: LiveService) -> None:
    """The last test of the service: no connection is left; and the end of its terminal ends it as SIGTERM does."""
    wait_until(lambda: narrow.metric("msd_connections") <= 1)
    assert narrow.score(json.loads(BODY)).status_code == 200
    assert not [line for line in narrow.log() if line["level"] == "error"]
    narrow.process.send_signal(signal.SIGHUP)
    assert narrow.process.wait(60) == 0
    assert narrow.log()[-1]["level"] != "error"


MOST = 2**20
CLIENTS = 40


@pytest.fixture(scope="module")
def small(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service that takes bodies of one MiB and holds twice as much of all together."""
    with live_service(
        bundle.folder,
        tmp_path_factory.mktemp("small"),
        INFLIGHT_BYTES=2**21,
        max_body_bytes=MOST,
        MAX_HEAD_BYTES=2**17,
        BODY_TIMEOUT_S=60,
        HEAD_TIMEOUT_S=60,
        REPLY_TIMEOUT_S=600,
    ) as running:
        yield running


def held(service: LiveService) -> float:
    """Bytes in flight, as they were counted within the last second."""
    return service.metric("msd_inflight_bytes")


UNFINISHED: dict[str, Callable[[], bytes]] = {
    "bodies less a byte": lambda: HEAD + b"Content-Length: %d\r\n\r\n" % MOST + b" " * (MOST - 1),
    "chunks": lambda: HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % MOST + b" " * (MOST - 1),
    "heads": lambda: HEAD + b"A: " + b"x" * (2**17 - 100),
}


@pytest.mark.parametrize("name", UNFINISHED)
def test_unfinished_requests_are_bounded_together(small: LiveService, name: str) -> None:
    """The latest of them stay, the others hear why, and whoever asks in full is answered meanwhile."""
    before = closed(small, "out_of_room")
    with ExitStack() as stack:
        clients = []
        for _ in range(CLIENTS):
            clients.append(stack.enter_context(connect(small)))
            clients[-1].sendall(UNFINISHED[name]())
            assert small.score(GOOD).status_code == 200
            assert held(small) <= 2 * MOST
        answer = b"".join(iter(lambda: clients[0].recv(65_536), b""))
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"connection: close" in answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "overloaded"
        assert closed(small, "out_of_room") > before
        clients[-1].setblocking(False)
        with pytest.raises(BlockingIOError):
            clients[-1].recv(1)
    wait_until(lambda: held(small) == 0)


def test_replies_that_are_not_read_are_bounded_together(small: LiveService) -> None:
    """Long before the time for a single client to read them is over."""
    with ExitStack() as stack:
        for _ in range(80):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.connect(("127.0.0.1", small.port))
            client.sendall(b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
        wait_until(lambda: closed(small, "slow_reader") > 0)
        assert small.score(GOOD).status_code == 200


def test_memory_of_unfinished_bodies_is_returned(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> None:
    """After 300 MiB of them, of which 64 MiB were held at once."""
    with live_service(bundle.folder, tmp_path_factory.mktemp("many"), BODY_TIMEOUT_S=60) as service:
        before = resident(service)
        with ExitStack() as stack:
            for _ in range(300):
                stack.enter_context(connect(service)).sendall(UNFINISHED["bodies less a byte"]())
            wait_until(lambda: held(service) > 2**25)
            assert resident(service) < before + 2 * 2**26
        wait_until(lambda: resident(service) < before + 2**25)


def test_front_without_memory_closes_a_connection_and_goes_on(bundle: Bundle, tmp_path: Path) -> None:
    with live_service(bundle.folder, tmp_path, BODY_TIMEOUT_S=60) as service, ExitStack() as stack:
        assert service.score(GOOD).status_code == 200
        pid, clients = service.process.pid, list[socket.socket]()
        usual = resource.prlimit(pid, resource.RLIMIT_DATA)
        found = re.search(r"VmData:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        assert found
        resource.prlimit(pid, resource.RLIMIT_DATA, (1_024 * int(found[1]) + 2**22, usual[1]))
        try:
            while not select(clients, [], [], 0.01)[0]:
                clients.append(stack.enter_context(connect(service)))
                with suppress(ConnectionError):
                    clients[-1].sendall(UNFINISHED["bodies less a byte"]())
        finally:
            resource.prlimit(pid, resource.RLIMIT_DATA, usual)
        assert service.score(GOOD).status_code == 200
        assert closed(service, "out_of_room") > 0


def resident(service: LiveService) -> int:
    with open(f"/proc/{service.process.pid}/statm") as file:
        return int(file.read().split()[1]) * 4_096
