"""Bytes of requests in flight, of all connections together: more than there may be costs those that are unfinished."""

import json
import socket
from collections.abc import Callable, Iterator

import pytest

from msd.contract.bundle import Bundle
from service.http.inflight import Inflight, RoomHolder
from tests.service.live import LiveService, live_service, wait_until
from tests.service.test_bad_input import GOOD, HEAD

MOST = 2**20
CLIENTS = 40


class Holder:
    """A connection that holds some bytes of an unfinished request, until it is to give way."""

    is_owed_replies = False

    def __init__(self, inflight: Inflight, size: int) -> None:
        self.inflight, self.size = inflight, size
        inflight.unfinished[self] = None
        inflight.held += size

    def give_way(self) -> None:
        """Holds nothing more."""
        self.inflight.forget(self)
        self.inflight.held -= self.size

    def give_place(self) -> None:
        """Is not asked to."""
        raise AssertionError


def test_the_oldest_unfinished_requests_give_way() -> None:
    inflight = Inflight(limit=100)
    holders: list[RoomHolder] = [Holder(inflight, 40) for _ in range(4)]

    assert inflight.has_room(holders[3])
    assert list(inflight.unfinished) == holders[2:]
    assert inflight.held == 80


def test_who_is_next_to_give_way_has_no_room() -> None:
    inflight = Inflight(limit=100)
    large, small = Holder(inflight, 101), Holder(inflight, 10)

    assert not inflight.has_room(large)
    assert list(inflight.unfinished) == [large, small]


def test_memory_is_returned_some_times_after_much_was_held() -> None:
    inflight = Inflight(limit=2**30)
    holder = Holder(inflight, 2**25)

    assert not inflight.is_over()
    holder.give_way()
    assert [inflight.is_over() for _ in range(4)] == [True, True, True, False]


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
    said, clients = UNFINISHED[name](), []
    before = small.metric('msd_connections_closed_total{reason="out_of_room"}')
    try:
        for _ in range(CLIENTS):
            clients.append(socket.create_connection(("127.0.0.1", small.port), timeout=60))
            clients[-1].sendall(said)
            assert small.score(GOOD).status_code == 200
            assert held(small) <= 2 * MOST
        answer = b"".join(iter(lambda: clients[0].recv(65_536), b""))
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"connection: close" in answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "overloaded"
        assert small.metric('msd_connections_closed_total{reason="out_of_room"}') > before
        clients[-1].setblocking(False)
        with pytest.raises(BlockingIOError):
            clients[-1].recv(1)
    finally:
        for one in clients:
            one.close()
    wait_until(lambda: held(small) == 0)


def test_bodies_that_come_whole_one_after_the_other_are_read(small: LiveService) -> None:
    body = json.dumps(GOOD).encode()
    body += b" " * (MOST - len(body))
    with small.client(headers={"Content-Type": "application/json"}) as client:
        for _ in range(20):
            assert client.post("/v1/score", content=body).status_code == 200
    wait_until(lambda: held(small) == 0)


def test_replies_that_are_not_read_are_bounded_together(small: LiveService) -> None:
    """Long before the time for a single client to read them is over."""
    sample = 'msd_connections_closed_total{reason="slow_reader"}'
    clients = []
    try:
        for _ in range(80):
            clients.append(socket.socket())
            clients[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            clients[-1].connect(("127.0.0.1", small.port))
            clients[-1].sendall(b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
        wait_until(lambda: small.metric(sample) > 0)
        assert small.score(GOOD).status_code == 200
    finally:
        for one in clients:
            one.close()


def test_memory_of_unfinished_bodies_is_returned(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> None:
    """After 300 MiB of them, of which 64 MiB were held at once."""
    with live_service(bundle.folder, tmp_path_factory.mktemp("many"), BODY_TIMEOUT_S=60) as service:
        before = resident(service)
        clients = []
        for _ in range(300):
            clients.append(socket.create_connection(("127.0.0.1", service.port), timeout=60))
            clients[-1].sendall(HEAD + b"Content-Length: %d\r\n\r\n" % MOST + b" " * (MOST - 1))
        wait_until(lambda: held(service) > 2**25)
        assert resident(service) < before + 2 * 2**26
        for one in clients:
            one.close()
        wait_until(lambda: resident(service) < before + 2**25)


def resident(service: LiveService) -> int:
    """Bytes of memory that its process has."""
    with open(f"/proc/{service.process.pid}/statm") as file:
        return int(file.read().split()[1]) * 4_096
