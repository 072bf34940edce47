"""What a client can hold of the service, and how long: connections, requests that wait, replies that are not read."""

import json
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from msd.contract.bundle import Bundle
from tests.service.bundle_factory import golden_requests
from tests.service.live import LiveService, live_service, wait_until
from tests.service.test_bad_input import HEAD, but, talk

CONNECTIONS = 4
BODY = but()
POST = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
LAST = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


@pytest.fixture(scope="module")
def narrow(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service of small limits."""
    with live_service(
        bundle.folder,
        tmp_path_factory.mktemp("narrow"),
        max_connections=CONNECTIONS,
        head_timeout_ms=1_500,
        body_timeout_ms=400,
        reply_timeout_ms=300,
    ) as running:
        yield running


def closed(service: LiveService, reason: str) -> float:
    """How many connections were ended for it."""
    return service.metric(f'msd_connections_closed_total{{reason="{reason}"}}')


def connect(service: LiveService) -> socket.socket:
    """A connection."""
    return socket.create_connection(("127.0.0.1", service.port), timeout=20)


def answers(connection: socket.socket, count: int) -> None:
    """Reads so many good replies."""
    seen = b""
    while seen.count(b"HTTP/1.1 200 ") < count or not seen.endswith(b"}"):
        came = connection.recv(65_536)
        assert came, seen
        seen += came


def test_a_new_client_takes_the_place_of_an_idle_one(narrow: LiveService) -> None:
    """Kept connections that nobody uses do not keep others out."""
    before = closed(narrow, "made_room")
    kept = [connect(narrow) for _ in range(CONNECTIONS)]
    try:
        for one in kept:
            one.sendall(POST)
            answers(one, 1)
        assert narrow.score(golden_requests()[0]).status_code == 200
        assert closed(narrow, "made_room") > before
    finally:
        for one in kept:
            one.close()


def test_clients_that_say_nothing_keep_others_out_for_the_heads_time_at_most(narrow: LiveService) -> None:
    held = [connect(narrow) for _ in range(CONNECTIONS + 3)]
    for one in held:
        one.sendall(b"GET /health/live HTTP/1.1\r\nX: ")
    try:
        wait_until(lambda: narrow.ready()["ready"])
        # Who asks may be kept out again, while others still have time.
        wait_until(lambda: closed(narrow, "full") > 0)
        wait_until(lambda: closed(narrow, "slow_head") > 0)
    finally:
        for one in held:
            one.close()


def test_a_client_that_does_not_read_is_sent_away(narrow: LiveService) -> None:
    """It asks for much, more than the kernel keeps, and takes nothing of it."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.connect(("127.0.0.1", narrow.port))
        connection.sendall(b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
        wait_until(lambda: closed(narrow, "slow_reader") > 0)


def test_a_client_that_reads_slowly_but_in_time_is_not(narrow: LiveService) -> None:
    with connect(narrow) as connection:
        connection.sendall(POST * 20)
        time.sleep(0.1)
        answers(connection, 20)


def test_requests_may_wait_on_a_connection_but_not_too_many(narrow: LiveService) -> None:
    assert talk(narrow, POST * 30 + LAST).count(b"HTTP/1.1 200 ") == 31
    try:
        answer = talk(narrow, POST * 300)
    except ConnectionResetError:
        answer = b""
    assert b"HTTP/1.1 400 " not in answer
    assert answer.count(b"HTTP/1.1 200 ") < 300


def test_what_is_wrong_after_a_good_request_is_not_taken_for_its_reply(narrow: LiveService) -> None:
    answer = talk(narrow, POST + b"nonsense\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n", 408),
        (b"POST /health/live HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 408),
        (b"GET /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 90000000\r\n\r\n", 408),
    ],
)
def test_no_route_waits_for_a_body_without_end(narrow: LiveService, head: bytes, status: int) -> None:
    answer = talk(narrow, head, b"1\r\n \r\n", b"1\r\n \r\n")

    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in answer


def test_a_body_that_comes_late_is_read_by_every_route(narrow: LiveService) -> None:
    head = b"GET /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
    answer = talk(narrow, head, b"abcd", LAST)

    assert answer.count(b"HTTP/1.1 200 ") == 2


def test_an_offer_may_be_cut_anywhere(narrow: LiveService) -> None:
    offer = POST.replace(b"Host: x\r\n", b"Host: x\r\nConnection: upgrade\r\nUPGRADE: h2c\r\n")
    start = offer.index(b"\r\nUPGRADE")
    for cut in range(start, start + 12, 3):
        assert talk(narrow, offer[:cut], offer[cut:], LAST).count(b"HTTP/1.1 200 ") == 2


def test_a_body_cannot_smuggle_a_request(narrow: LiveService) -> None:
    """What stands in a body stays in it, by its declared length, whatever it looks like."""
    hidden = b"GET /v1/model HTTP/1.1\r\nHost: x\r\n\r\n"
    body = b"\r\nUpgrade: x" * 40 + hidden
    head = HEAD + b"Content-Length: %d\r\n\r\n" % len(body)
    answer = talk(narrow, head + body + LAST)

    assert answer.count(b"HTTP/1.1 ") == 2
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"model_version" in answer.rpartition(b"HTTP/1.1 200 ")[2]


def test_the_service_is_whole_after_it_all(narrow: LiveService) -> None:
    """The last test of the service: no connection is left; and the end of its terminal ends it as SIGTERM does."""
    wait_until(lambda: narrow.metric("msd_connections") <= 1)
    assert narrow.score(json.loads(BODY)).status_code == 200
    assert not [line for line in narrow.log() if line["level"] == "error"]
    narrow.process.send_signal(signal.SIGHUP)
    assert narrow.process.wait(60) == 0
    assert narrow.log()[-1]["level"] != "error"
