"""Scoring requests over raw connections: whatever comes, and however it is cut, has the reply that it should have."""

import json
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest

from msd.contract.bundle import Bundle
from tests.bundles.factory import AT, build_bundle
from tests.bundles.ranker_graph import POISON_HOUR, Recipe
from tests.service.api_keys import KEYS, write_keys
from tests.service.faults import ModelRuns
from tests.service.live import LiveService, live_service, wait_until
from tests.service.load import wait_for_rows

GOOD = json.dumps({"user_id": "u1", "at": AT, "candidates": {"id": ["i1", "i2", "i250"]}}).encode()
JSON = b"Content-Type: application/json\r\n"
LAST = b"Connection: close\r\n"
MANY = json.dumps({"user_id": "u1", "at": AT, "candidates": {"id": [f"i{n % 300}" for n in range(2_000)]}}).encode()
_TIMES = (b"date", b"server-timing")


class Reply(NamedTuple):
    status: int
    headers: tuple[bytes, ...]
    body: bytes


Open = Callable[..., LiveService]


@pytest.fixture(scope="module")
def open_way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """Starts a service over a bundle, with more settings; it ends with the module."""
    with ExitStack() as running:

        def start(bundle: Bundle, **settings: Any) -> LiveService:  # noqa: ANN401 - any setting
            return running.enter_context(live_service(bundle.folder, tmp_path_factory.mktemp("way"), **settings))

        yield start


@pytest.fixture(scope="module")
def way(bundle: Bundle, open_way: Open) -> LiveService:
    """Over the plain bundle; however slowly a client sends and reads, it has the time."""
    return open_way(bundle, BODY_TIMEOUT_S=60, REPLY_TIMEOUT_S=60)


def post(body: bytes, *headers: bytes, version: bytes = b"1.1", name: bytes = b"same") -> bytes:
    """A scoring request with an id of its caller's."""
    head = b"POST /v1/score HTTP/%b\r\nHost: x\r\nX-Request-Id: %b\r\n" % (version, name) + b"".join(headers)
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def connect(service: LiveService) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def whole_stream(connection: socket.socket) -> bytes:
    """All that comes until the service closes the connection."""
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def exchanged(service: LiveService, pieces: Sequence[bytes], pause_s: float = 0.01) -> list[Reply]:
    """Sends pieces, and gives the replies that came until the service closed the connection."""
    with connect(service) as connection:
        for piece in pieces:
            connection.sendall(piece)
            if len(pieces) > 1:
                time.sleep(pause_s)
        return replies(whole_stream(connection))


def replies(stream: bytes) -> list[Reply]:
    """Those in a stream, which has to hold nothing else."""
    found = []
    while stream:
        head, end, rest = stream.partition(b"\r\n\r\n")
        assert end, stream
        first, *headers = head.split(b"\r\n")
        if first.endswith(b"100 Continue"):
            found.append(Reply(100, (), b""))
            stream = rest
            continue
        (length,) = [int(line[16:]) for line in headers if line.startswith(b"content-length: ")]
        assert len(rest) >= length, stream
        kept = tuple(
            name + value * (name not in _TIMES) for name, _, value in (line.partition(b": ") for line in headers)
        )
        found.append(Reply(int(first.split()[1]), kept, rest[:length]))
        stream = rest[length:]
    return found


def only(way: LiveService, *pieces: bytes, pause_s: float = 0.01) -> Reply:
    (reply,) = exchanged(way, pieces, pause_s)
    return reply


HEADERS = {
    "no content type": (b"", 415),
    "another content type": (b"Content-Type: text/plain\r\n", 415),
    "a content type with a charset": (b"Content-Type: Application/JSON; charset=utf-8\r\n", 200),
    "the last content type counts": (b"Content-Type: text/plain\r\n" + JSON, 200),
    "no length of tensors": (JSON + b"Inference-Header-Content-Length:\r\n", 200),
    "compressed": (JSON + b"Content-Encoding: gzip\r\n", 415),
    "a deadline": (JSON + b"X-Deadline-Ms: 60000\r\n", 200),
    "a deadline of zero": (JSON + b"X-Deadline-Ms: 0\r\n", 400),
    "a deadline in words": (JSON + b"X-Deadline-Ms: soon\r\n", 400),
    "two deadlines": (JSON + b"X-Deadline-Ms: 5\r\nX-Deadline-Ms: 5\r\n", 400),
    "an offer": (JSON + b"Upgrade: h2c\r\n", 200),
    "a key that nobody asks for": (JSON + b"X-Api-Key: x\r\n", 200),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers(way: LiveService, name: str) -> None:
    headers, status = HEADERS[name]
    assert only(way, post(GOOD, headers, LAST)).status == status


def inference() -> bytes:
    inputs = {"user_id": ["u1"], "candidates.id": ["i1", "i2"]}
    given = [{"name": name, "datatype": "BYTES", "shape": [len(one)], "data": one} for name, one in inputs.items()]
    return json.dumps({"inputs": given}).encode()


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (b"/v2/models/msd/infer", b"", 200),
        (b"/v2/models/msd/infer", b"X-Deadline-Ms: 0\r\n", 400),
        (b"/v2/models/msd/infer", b"Inference-Header-Content-Length:\r\n", 400),
        (b"/v2/models/msd/%69nfer", b"", 404),
    ],
)
def test_head_of_tensors(way: LiveService, path: bytes, headers: bytes, status: int) -> None:
    request = post(inference(), JSON, headers, LAST).replace(b"/v1/score", path)
    assert only(way, request).status == status


def test_id_that_the_service_gives_is_that_of_the_reply(way: LiveService) -> None:
    (reply,) = exchanged(way, [post(GOOD, JSON, LAST).replace(b"X-Request-Id: same\r\n", b"")])
    assert b"x-request-id" + json.loads(reply.body)["request_id"].encode() in reply.headers


@pytest.mark.parametrize(
    ("version", "headers"),
    [
        (b"1.0", b""),
        (b"1.0", b"Connection: keep-alive\r\n"),
        *((b"1.1", b"Connection: %b\r\n" % value) for value in (b"close", b"Close", b"keep-alive, close")),
    ],
)
def test_connection_ends_with_the_reply(way: LiveService, version: bytes, headers: bytes) -> None:
    reply = only(way, post(GOOD, JSON, headers, version=version))
    assert reply.status == 200
    assert reply.headers.count(b"connectionclose") == 1


def test_chunked_body_gets_the_same_reply(way: LiveService) -> None:
    head = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nX-Request-Id: same\r\n" + JSON + LAST
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (GOOD[:7], GOOD[7:40], GOOD[40:])]
    whole = only(way, post(GOOD, JSON, LAST))
    assert only(way, head + b"".join(chunks) + b"0\r\n\r\n") == whole
    assert only(way, head, *chunks, b"0\r\n\r\n") == whole


def test_body_larger_than_what_is_read_at_once(way: LiveService) -> None:
    document = {**json.loads(MANY), "context": {"device": "d" * 200}}
    body = json.dumps(document).encode() + b" " * 90_000
    request = post(body, JSON, LAST)
    whole = only(way, request)
    assert whole.status == 200
    assert only(way, request[:300], request[300:80_000], request[80_000:]) == whole


def test_request_whose_time_is_over_when_it_has_come(way: LiveService) -> None:
    request = post(GOOD, JSON, LAST, b"X-Deadline-Ms: 10\r\n")
    with connect(way) as connection:
        # The reply to the first proves that the head of the second has been read.
        connection.sendall(post(GOOD, JSON) + request[: -len(GOOD)])
        came = connection.recv(65_536)
        time.sleep(0.03)
        connection.sendall(GOOD)
        found = replies(came + whole_stream(connection))
    assert [reply.status for reply in found] == [200, 504]
    assert json.loads(found[1].body)["error"]["code"] == "deadline_exceeded"


def test_pipelined_requests_are_answered_in_their_order(way: LiveService) -> None:
    kinds = [
        (post(GOOD, JSON, name=b"plain"), 200),
        (post(b"{", JSON, name=b"malformed"), 400),
        (post(json.dumps({**json.loads(GOOD), "explain": True}).encode(), JSON, name=b"explained"), 200),
        (b"GET /nothing HTTP/1.1\r\nHost: x\r\nX-Request-Id: nothing\r\n\r\n", 404),
        (post(GOOD, name=b"untyped"), 415),
        (post(MANY, JSON, name=b"many"), 200),
        (post(GOOD, JSON, b"X-Deadline-Ms: x\r\n", name=b"late"), 400),
        (post(GOOD, JSON, name=b"again"), 200),
    ]
    requests, statuses = [request for request, _ in kinds] * 3, [status for _, status in kinds] * 3
    requests.append(post(GOOD, JSON, LAST, name=b"last"))
    stream = b"".join(requests)
    whole = exchanged(way, [stream])
    assert [reply.status for reply in whole] == [*statuses, 200]
    names = [request.partition(b"X-Request-Id: ")[2].partition(b"\r\n")[0] for request in requests]
    assert [next(h for h in reply.headers if h.startswith(b"x-request-id"))[12:] for reply in whole] == names
    for size in (700, 3_000, 20_000):
        pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
        assert exchanged(way, pieces, pause_s=0.0) == whole


def leave(connection: socket.socket, *, hard: bool) -> None:
    if hard:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_client_that_reads_late_gets_all_of_it(way: LiveService) -> None:
    """Replies that the connection does not take at once come whole, each byte once."""
    request, count = post(MANY, JSON), 40
    expected = only(way, post(MANY, JSON, LAST))._replace(headers=())
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", way.port))
        connection.sendall(request * (count - 1) + post(MANY, JSON, LAST))
        time.sleep(0.3)
        came = replies(whole_stream(connection))
    assert [reply._replace(headers=()) for reply in came] == [expected] * count


def test_draining_services_close_kept_connections(bundle: Bundle, open_way: Open) -> None:
    """Replies tell clients to connect anew, on kept connections too."""
    way = open_way(bundle, drain_seconds=600)
    with connect(way) as kept:
        kept.sendall(post(GOOD, JSON))
        assert b"connection: close" not in kept.recv(65_536)
        way.process.send_signal(signal.SIGINT)
        wait_until(lambda: way.ready()["draining"])
        kept.sendall(post(GOOD, JSON))
        found = replies(whole_stream(kept)) + exchanged(way, [post(GOOD, JSON)])
        way.process.send_signal(signal.SIGINT)
        assert way.process.wait(60) == 0
    assert [reply.status for reply in found] == [200, 200]


@pytest.mark.parametrize(
    ("recipe", "code", "event"),
    [(Recipe(poison=True), "model_error", "request"), (Recipe(fails=True), "internal", "internal_error")],
    ids=["not finite", "fails"],
)
def test_model_that_fails(
    open_way: Open,
    tmp_path_factory: pytest.TempPathFactory,
    recipe: Recipe,
    code: str,
    event: str,
) -> None:
    way = open_way(build_bundle(tmp_path_factory.mktemp("failing") / "bundle", recipe))
    bad = json.dumps({**json.loads(GOOD), "context": {"hour": POISON_HOUR}}).encode()
    first, second, third = exchanged(way, [post(bad, JSON, name=b"bad") + post(GOOD, JSON) + post(bad, JSON, LAST)])
    assert (first.status, second.status, third.status) == (500, 200, 500)
    assert json.loads(first.body)["error"]["code"] == code

    def lines() -> list[dict[str, Any]]:
        return [line for line in way.log() if line["event"] == event and line.get("request_id") == "bad"]

    wait_until(lines)  # a line is written a moment after its reply
    (line,) = lines()
    assert (line["level"] == "error") == (event == "internal_error")
    wait_for_rows(way, 0)
    assert way.metric('msd_requests_total{code="500"}') == 2


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> ModelRuns:
    return ModelRuns(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def held(bundle: Bundle, open_way: Open, runs: ModelRuns) -> LiveService:
    """Over the plain bundle, with little room to wait, and runs that can be held."""
    return open_way(bundle, prepare=runs.obey, max_candidates=100, MAX_QUEUED_ROWS=250)


HUNDRED = json.dumps({"user_id": "u1", "at": AT, "candidates": {"id": [f"i{n}" for n in range(100)]}}).encode()


def test_one_key_leaves_room_to_another(
    bundle: Bundle, open_way: Open, runs: ModelRuns, tmp_path_factory: pytest.TempPathFactory
) -> None:
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    write_keys(keys, "ads", "ads-next")
    loud, quiet = (JSON + LAST + b"X-Api-Key: %b\r\n" % KEYS[name].encode() for name in ("ads", "ads-next"))
    way = open_way(bundle, prepare=runs.obey, max_candidates=400, MAX_QUEUED_ROWS=1_000, keys_file=keys)
    assert [reply.status for key in (quiet, loud) for reply in exchanged(way, [post(HUNDRED, key)])] == [200] * 2
    wait_for_rows(way, 0)
    before = way.metric(_REFUSED)
    with ThreadPoolExecutor(16) as pool:
        with runs.held():
            ended = [pool.submit(exchanged, way, [post(HUNDRED, quiet)])]
            wait_for_rows(way, 100)
            crowd = [pool.submit(exchanged, way, [post(HUNDRED, loud)]) for _ in range(10)]
            wait_until(lambda: way.metric(_REFUSED) == before + 6)
            ended += [pool.submit(exchanged, way, [post(HUNDRED, quiet)]) for _ in range(3)]
            wait_for_rows(way, 800)
        assert [reply.status for job in ended for reply in job.result()] == [200] * 4
        assert sorted(reply.status for job in crowd for reply in job.result()) == [200] * 4 + [429] * 6
    wait_for_rows(way, 0)


_REFUSED = 'msd_requests_total{code="429"}'


def test_clients_that_leave_while_they_wait_are_counted_and_never_scored(held: LiveService, runs: ModelRuns) -> None:
    gone, ran = 'msd_requests_total{code="499"}', 'msd_stage_seconds_count{stage="run"}'
    before = {name: held.metric(name) for name in (gone, ran)}
    with ThreadPoolExecutor(1) as pool:
        with runs.held():
            scored = pool.submit(exchanged, held, [post(HUNDRED, JSON, LAST)])
            wait_until(lambda: held.metric("msd_queued_rows") > 0)
            at_hand = held.metric("msd_queued_rows")
            connection = connect(held)
            connection.sendall(post(GOOD, JSON))
            wait_until(lambda: held.metric("msd_queued_rows") > at_hand)
            leave(connection, hard=True)
            held.ready()  # whoever is answered later proves that the service has seen that he left
        assert [reply.status for reply in scored.result()] == [200]
    wait_for_rows(held, 0)
    assert {name: held.metric(name) - value for name, value in before.items()} == {gone: 1, ran: 1}
    assert [reply.status for reply in exchanged(held, [post(GOOD, JSON, LAST)])] == [200]
