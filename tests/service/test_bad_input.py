"""Hostile and mistaken requests: each gets the status, code and field that say what is wrong, and nothing breaks."""

import json
import socket
from collections.abc import Iterator

import httpx
import pytest

from tests.service.live import LiveService, wait_until
from tests.service.wire import GOOD, HEAD, but, error_of, talk


@pytest.fixture(scope="module")
def client(service: LiveService) -> Iterator[httpx.Client]:
    """One kept connection: it has to outlive every bad request."""
    with service.client(headers={"Content-Type": "application/json"}) as kept:
        yield kept


@pytest.mark.parametrize("size", [2**20 + 1, 5 * 2**20])
def test_rejects_body_over_limit_and_keeps_the_connection(client: httpx.Client, size: int) -> None:
    assert error_of(client.post("/v1/score", content=b" " * size), 413)["code"] == "body_too_large"
    assert client.post("/v1/score", content=but()).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/nothing", 404, "no such route"),
        ("GET", "/v1/score/", 404, "no such route"),
        ("GET", "/docs/assets/../../../settings.py", 404, "no such route"),
        ("GET", "/docs/assets/%2e%2e/%2e%2e/core.py", 404, "no such route"),
        ("POST", "/v1/events", 404, "no such route; it needs MSD_LIVE=on"),
        ("POST", "/v1/admin/swap", 404, "no such route; it needs MSD_KEYS_FILE, and moves to MSD_ADMIN_PORT"),
        ("POST", "/playground/score-without", 404, "no such route; it needs MSD_PLAYGROUND_WITHOUT"),
        ("GET", "/playground/", 404, "no such route; it needs MSD_PLAYGROUND=true"),
        ("GET", "/v1/score", 405, "Method Not Allowed"),
        ("PUT", "/v1/score", 405, "Method Not Allowed"),
        ("POST", "/v1/model", 405, "Method Not Allowed"),
        ("DELETE", "/metrics", 405, "Method Not Allowed"),
    ],
)
def test_wrong_routes(client: httpx.Client, method: str, path: str, status: int, message: str) -> None:
    answer = client.request(method, path)

    assert error_of(answer, status)["message"] == message
    assert error_of(answer, status)["code"] == {404: "not_found", 405: "method_not_allowed"}[status]
    assert status != 405 or answer.headers["allow"]


def test_nothing_of_it_is_an_internal_error(service: LiveService) -> None:
    assert service.metric('msd_requests_total{code="500"}') == 0
    assert not [line for line in service.log() if line["event"] == "internal_error"]


def test_client_that_leaves_is_counted_and_nothing_is_done(service: LiveService) -> None:
    before = service.metric('msd_requests_total{code="499"}')
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(HEAD + b"Content-Length: 500\r\n\r\n{")
    wait_until(lambda: service.metric('msd_requests_total{code="499"}') == before + 1)


GET = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
HEADS = {
    "many long headers": (GET + b"".join(b"H%d: %s\r\n" % (place, b"x" * 100) for place in range(400)), 431),
    "a header without end": (GET + b"H: " + b"x" * 100_000, 431),
    "a target without end": (b"GET /" + b"x" * 100_000, 414),
    "a long target": (b"GET /?" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "no http": (b"not http\r\n\r\n", 400),
    "a length that is none": (GET + b"Content-Length: many\r\n\r\n", 400),
    "two lengths": (GET + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
    "a length and chunks": (GET + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a space before the colon": (GET + b"Content-Length : 1\r\n\r\na", 400),
    "a folded header": (GET + b"A: b\r\n Content-Length: 1\r\n\r\n", 400),
    "a lone line feed": (GET + b"A: b\nContent-Length: 1\n\n", 400),
    "NUL": (GET + b"A: \x00\r\n\r\n", 400),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "no host": (b"GET /health/live HTTP/1.1\r\n\r\n", 400),
    "a path in the query of another server": (b"GET http://x?/health/live HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a server that is no name": (b"GET http://^/health/live HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a user of a server": (b"GET http://user@x/health/live HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "two hosts": (GET + b"host: y\r\n\r\n", 400),
    "HTTP/0.9": (GET.replace(b"1.1", b"0.9") + b"\r\n", 505),
    "HTTP/2.0": (GET.replace(b"1.1", b"2.0") + b"\r\n", 505),
    "HTTP/1.2": (GET.replace(b"1.1", b"1.2") + b"\r\n", 400),
    "a coding that is no text": (GET + b"Transfer-Encoding: \xff\xfe\r\n\r\n", 501),
    "another coding": (GET + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "chunks in HTTP/1.0": (GET.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a chunk that is none": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
    "an extension that is none": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;a=b=c\r\n", 400),
    "a trailer without end": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"a:\r\n" * 200, 431),
}
_CODES = {
    400: "bad_http",
    414: "target_too_long",
    431: "head_too_large",
    501: "unsupported_coding",
    505: "unsupported_version",
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_that_are_too_large_or_no_heads(service: LiveService, name: str) -> None:
    head, status = HEADS[name]
    try:
        answer = talk(service, head)
    except ConnectionError:  # closed while the head was still being written
        assert len(head) > 50_000
        answer = b""
    if answer:
        first, _, body = answer.partition(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 %d " % status)
        assert b"\r\nconnection: close" in first
        assert json.loads(body)["error"]["code"] == _CODES[status]
    assert service.score(GOOD).status_code == 200


EXPECTING = HEAD + b"Expect: 100-continue\r\nConnection: close\r\n"


def test_client_that_asks_first_hears_the_decision_before_it_sends(service: LiveService) -> None:
    too_large = talk(service, EXPECTING + b"Content-Length: 9000000\r\n\r\n")
    not_json = talk(service, EXPECTING.replace(b"application/json", b"text/plain") + b"Content-Length: 9\r\n\r\n")
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        connection.sendall(EXPECTING + b"Content-Length: %d\r\n\r\n" % len(but()))
        go_on = connection.recv(65_536)
        connection.sendall(but())
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))

    assert too_large.startswith(b"HTTP/1.1 413 ")
    assert not_json.startswith(b"HTTP/1.1 415 ")
    assert go_on == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/v2/health/live", "/v1/model", "/metrics", "/docs"])
def test_head_is_answered_as_get_without_a_body(client: httpx.Client, path: str) -> None:
    head, got = client.head(path), client.get(path)

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert client.head("/v1/score").status_code == 405
