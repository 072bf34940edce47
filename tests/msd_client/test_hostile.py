"""The clients against a server that is slow, resets, answers by halves, lies, or sends them away: a clear error or,
where it is safe, another attempt, and never later than the deadline."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from msd_client import (
    BadReply,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidRequest,
    InvalidSettings,
    MsdClientError,
    OpenrtbRequest,
    Overloaded,
    Retry,
    ScoreRequest,
    ServiceFailed,
    Unavailable,
)
from tests.msd_client.conftest import Ask
from tests.scripted_server import HANG, Act, End, Reply, scripted_server

REQUEST = ScoreRequest(user_id="u1", ids=["a"])
GOOD = {
    "request_id": "r",
    "model_version": "v",
    "candidates": {"id": ["a"], "pctr": [0.5], "ecpm": [None]},
}
FINE = Reply(body=json.dumps(GOOD).encode())
BUSY = json.dumps({"error": {"code": "overloaded", "message": "too much to do", "field": None}}).encode()
FOR_EVER = 60.0


def but(**changes: object) -> Reply:
    """A reply that is not as it should be."""
    return Reply(body=json.dumps({**GOOD, **changes}).encode())


@pytest.mark.parametrize(
    ("acts", "attempts"),
    [
        ([End.RESET, FINE], 2),
        ([End.RESET, End.RESET, FINE], 3),
        ([Reply(503, BUSY, ("Retry-After: 0",)), FINE], 2),
        ([Reply(429, BUSY, ("Retry-After: Wed, 21 Oct 2015 07:28:00 GMT",)), FINE], 2),
        ([Reply(body=FINE.body[:20], length=len(FINE.body)), FINE], 2),
    ],
)
def test_retries_transient_failures(ask: Ask, acts: list[Act], attempts: int) -> None:
    with scripted_server(*acts) as server:
        reply = ask(server.url, "score", REQUEST, deadline_s=FOR_EVER)

    assert reply.pctr == [0.5]
    assert len(server.heads) == attempts


@pytest.mark.parametrize(
    ("act", "kind", "message", "attempts"),
    [
        (End.RESET, ConnectionFailed, "http://127.0.0.1", 3),
        (Reply(500, b"<html>", ("Retry-After: 0",)), ServiceFailed, "HTTP 500: b'<html>'", 1),
        (Reply(502, b""), ServiceFailed, "HTTP 502", 1),
        (Reply(503, BUSY), Unavailable, "too much to do", 1),
        (Reply(503, BUSY, ("Retry-After: soon",)), Unavailable, "too much to do", 1),
        (Reply(503, BUSY, ("Retry-After: Thu, 1 Jan 99999999999 00:00:00 GMT",)), Unavailable, "too much to do", 1),
        (Reply(429, BUSY, ("Retry-After: 0",)), Overloaded, "too much to do", 3),
        (Reply(422, BUSY), InvalidRequest, "too much to do", 1),
        (Reply(404, BUSY), InvalidRequest, "too much to do", 1),
        (Reply(307, b"", ("Location: /v1/other",)), BadReply, "HTTP 307", 1),
        (Reply(body=b"{"), BadReply, "the reply is not JSON: b'{'", 1),
        (Reply(headers=("Content-Encoding: gzip",)), BadReply, "the reply is not of its Content-Encoding", 1),
        (Reply(body=b"[" * 100_000), BadReply, "the reply is not JSON", 1),
        (Reply(body=b"[1]"), BadReply, "the reply is not a JSON object", 1),
        (Reply(body=b"\xff"), BadReply, "the reply is not JSON", 1),
        (but(candidates=None), BadReply, "the reply's 'candidates' is not of type dict", 1),
        (but(candidates={"id": ["a"], "pctr": [0.5, 0.6], "ecpm": [None]}), BadReply, "the columns of candidates", 1),
        (but(candidates={"id": ["a"], "pctr": "x", "ecpm": [None]}), BadReply, "the reply's 'pctr' is not of", 1),
        (but(page=3), BadReply, "the reply's 'page' is not of type dict", 1),
        (but(page={"id": ["a"], "pctr": [0.5], "ecpm": [None]}), BadReply, "the reply's 'slot' is not of type list", 1),
        (but(page={"id": ["a"], "slot": [], "ecpm": [None]}), BadReply, "the columns of page differ in length", 1),
        (but(degraded=["a"]), BadReply, "the reply's 'degraded' is not of type dict", 1),
        (but(degraded={"candidates": 3}), BadReply, "the reply's 'candidates' is not of type dict", 1),
    ],
)
def test_maps_failures_to_errors(ask: Ask, act: Act, kind: type[MsdClientError], message: str, attempts: int) -> None:
    with scripted_server(act) as server, pytest.raises(kind) as failed:
        ask(server.url, "score", REQUEST, deadline_s=FOR_EVER)

    assert failed.value.message.startswith(message)
    assert len(server.heads) == attempts


@pytest.mark.parametrize(
    "act",
    [
        Reply(wait_s=FOR_EVER),
        Reply(drip_s=0.02),
        Reply(drip_s=0.02, headers=("X-Filler: " + "x" * 5000,)),
        Reply(503, BUSY, ("Retry-After: 99999999999",)),
    ],
)
def test_call_ends_at_its_deadline(ask: Ask, act: Act) -> None:
    """A drip comes well within any one read's time, and would take two minutes in all."""
    began = time.monotonic()
    with scripted_server(act) as server, pytest.raises((DeadlineExceeded, Unavailable)):
        ask(server.url, "score", REQUEST, deadline_s=0.3)

    assert time.monotonic() - began < FOR_EVER / 2
    assert len(server.heads) <= 1


def test_wait_for_a_connection_ends_at_the_deadline() -> None:
    with (
        scripted_server(HANG) as server,
        Client(server.url, max_connections=1) as client,
        ThreadPoolExecutor(1) as thread,
    ):
        first = thread.submit(client.score, REQUEST, deadline_s=1.5)
        while not server.heads:
            time.sleep(0.01)
        with pytest.raises(DeadlineExceeded):
            client.score(REQUEST, deadline_s=0.1)
        assert not first.done()
        with pytest.raises(DeadlineExceeded):
            first.result()


def test_refused_connection_is_an_error(ask: Ask) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConnectionFailed, match=url):
            ask(url, "score", REQUEST, options={"retry": Retry(attempts=2, first_s=0.001)})


def test_sends_remaining_time_and_headers(ask: Ask) -> None:
    with scripted_server(Reply(503, BUSY, ("Retry-After: 0",)), FINE) as server:
        ask(
            server.url,
            "score",
            REQUEST,
            deadline_s=30,
            request_id="r-7",
            traceparent="00-ab-cd-01",
            options={"api_key": "k"},
        )

    first, second = (_headers(head) for head in server.heads)
    assert 0 < int(second["x-deadline-ms"]) <= int(first["x-deadline-ms"]) <= 30_000
    assert first["authorization"] == "Bearer k"
    assert (first["x-request-id"], first["traceparent"]) == ("r-7", "00-ab-cd-01")


def too_long(most_ms: str, *more: str) -> Reply:
    """A refusal of a deadline that names the most that there may be."""
    detail = {"code": "malformed", "message": "is not a whole number from 1 to it", "field": "X-Deadline-Ms"}
    return Reply(400, json.dumps({"error": detail}).encode(), (f"X-Deadline-Ms: {most_ms}", *more))


def test_learns_maximum_deadline(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    """The caller's own time stays what it is, and no attempt is lost."""
    options = {"retry": Retry(attempts=2, first_s=0.001)}
    with scripted_server(too_long("700"), End.RESET, FINE) as server:
        ask(server.url, "score", REQUEST, deadline_s=FOR_EVER, options=options, times=2)

    granted = [int(_headers(head)["x-deadline-ms"]) for head in server.heads]
    assert granted[0] > 700
    assert granted[1:] == [700, 700, 700]
    assert [record.getMessage() for record in caplog.records if record.name == "msd_client"] == [
        "the service lets a request take 700 ms at most, so it is asked for no more from now on"
    ]


@pytest.mark.parametrize("most_ms", ["600", "0", "99999999", "9" * 5_000, "-1", "soon", "", "²"])
def test_second_or_invalid_maximum_deadline_is_an_error(ask: Ask, most_ms: str) -> None:
    with (
        scripted_server(too_long("700"), too_long(most_ms)) as server,
        pytest.raises(InvalidRequest, match="X-Deadline-Ms"),
    ):
        ask(server.url, "score", REQUEST, deadline_s=FOR_EVER)
    assert len(server.heads) == 2


def _headers(head: str) -> dict[str, str]:
    return {name.lower(): value for name, value in (line.split(": ", 1) for line in head.split("\r\n")[1:-2])}


def test_keeps_and_replaces_connections(ask: Ask) -> None:
    with scripted_server(FINE) as server:
        ask(server.url, "score", REQUEST, times=5)
    assert (len(server.heads), server.connections) == (5, 1)

    with scripted_server(Reply(body=FINE.body, ends=True)) as server:
        ask(server.url, "score", REQUEST, times=3)
    assert (len(server.heads), server.connections) == (3, 3)


@pytest.mark.parametrize(
    ("request_", "more", "message"),
    [
        (ScoreRequest(user_id="u", ids=["a"], bids=[float("nan")]), {}, "cannot be written as JSON"),
        (ScoreRequest(user_id="\ud800", ids=["a"]), {}, "cannot be written as JSON"),
        (ScoreRequest(user_id="u", ids=["a"], context={"x": object()}), {}, "cannot be written as JSON"),  # type: ignore[dict-item]
        (ScoreRequest(user_id="u", ids=["a"], items={"a": {"text": "x"}}), {}, "items.a: has to be of type Item"),  # type: ignore[dict-item]
        (OpenrtbRequest(request={"id": object()}, candidates={}), {}, "cannot be written as JSON"),
        (OpenrtbRequest(request={}, candidates={"1": {}}), {}, "candidates.1: has to be of type Candidates"),  # type: ignore[dict-item]
        (REQUEST, {"request_id": "r" * 129}, "x-request-id: has to be 1 to 128 printable ASCII"),
        (REQUEST, {"traceparent": "a\r\nX-Api-Key: b"}, "traceparent: has to be 1 to 128 printable ASCII"),
        (REQUEST, {"request_id": ""}, "x-request-id: has to be 1 to 128 printable ASCII"),
    ],
)
def test_rejects_unsendable_request(
    ask: Ask, request_: ScoreRequest | OpenrtbRequest, more: dict[str, str], message: str
) -> None:
    method = "score" if isinstance(request_, ScoreRequest) else "openrtb"
    with pytest.raises(InvalidRequest, match=message):
        ask("http://127.0.0.1:9", method, request_, **more)


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("127.0.0.1:8080", {}, "is not a"),
        ("ftp://x", {}, "'ftp://x' is not a service's address"),
        ("http://", {}, "is not a service's address"),
        ("http://x:y", {}, "is not an address"),
        ("http://x", {"deadline_s": 0}, "invalid deadline 0 s"),
        ("http://x", {"deadline_s": float("nan")}, "invalid deadline nan s"),
        ("http://x", {"deadline_s": 1e300}, "invalid deadline 1e.300 s"),
        ("http://x", {"api_key": "ключ"}, "api_key must be printable ASCII"),
        ("http://x", {"max_connections": 0}, "max_connections"),
        ("http://x", {"ca_file": "missing.pem"}, "missing.pem: .*No such file"),
        ("http://x", {"key_file": "key.pem"}, "key_file needs cert_file"),
        ("http://x", {"ca_file": __file__}, "test_hostile.py"),
    ],
)
def test_rejects_invalid_settings(ask: Ask, url: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        ask(url, "ready", options=options)


def test_columns_are_of_any_collection_and_a_string_is_none() -> None:
    arrays = ScoreRequest(user_id="u", ids=np.array(["a", "b"]), bids=np.array([0.5, 1.0]))  # type: ignore[arg-type]
    assert json.loads(arrays.body())["candidates"] == {"id": ["a", "b"], "bid": [0.5, 1.0]}

    string = ScoreRequest(user_id="u", ids="a1", history="a2")
    assert json.loads(string.body()) == {"user_id": "u", "candidates": {"id": "a1"}, "user": {"history": "a2"}}


def test_wait_between_attempts_is_bounded() -> None:
    assert Retry(attempts=10_000).wait_s(ConnectionFailed("reset"), 9_999) <= 1.0  # type: ignore[operator]


@pytest.mark.parametrize("options", [{"attempts": 0}, {"first_s": 2, "most_s": 1}])
def test_rejects_invalid_retry(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidSettings):
        Retry(**options)
