"""Any bytes at all on a connection: an answer of the usual form or the connection's end, and the service goes on."""

import json
import socket

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.service.live import LiveService
from tests.service.test_bad_input import GOOD, but

_BODY = but()
_PIECES = [
    b"POST /v1/score HTTP/1.1\r\n",
    b"GET /health/live HTTP/1.1\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n",
    b"OPTIONS * HTTP/1.0\r\n",
    b"GET http://x/v1/model HTTP/1.1\r\n",
    b"Host: x\r\n",
    b"Content-Type: application/json\r\n",
    b"Content-Length: %d\r\n" % len(_BODY),
    b"Content-Length: 0\r\n",
    b"Content-Length: -1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b"\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"ffffffffffffffffff\r\n",
    _BODY,
    b"\x00",
    b"\n",
]
STREAMS = st.lists(st.sampled_from(_PIECES) | st.binary(max_size=8), min_size=1, max_size=10)


def said(service: LiveService, pieces: list[bytes]) -> bytes:
    """What the service says to some bytes, after which its client says no more."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65_536), b""))
        except (ConnectionError, OSError):
            return b""


@seed(0)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(pieces=STREAMS)
def test_any_bytes_get_an_answer_or_the_end(service: LiveService, pieces: list[bytes]) -> None:
    answer = said(service, pieces)

    assert not answer or answer.startswith(b"HTTP/1.1 "), answer
    assert b"HTTP/1.1 500 " not in answer
    if answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 414 ", b"HTTP/1.1 431 ")):
        head, _, body = answer.partition(b"\r\n\r\n")
        length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
        assert json.loads(body[:length])["error"]["code"]


def test_the_service_goes_on(service: LiveService) -> None:
    """After all that was sent above."""
    assert service.score(GOOD).status_code == 200
    assert not [line for line in service.log() if line["level"] == "error"]
