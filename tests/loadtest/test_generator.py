"""Requests are sent when they are due, each is counted once, and their times count from when they were due."""

import json
import os
import threading
from collections import Counter
from contextlib import ExitStack

import numpy as np
import pytest

from loadtest.arrivals import bursts, constant, poisson
from loadtest.generator import LOST, REFUSED, LoadLimits, Seen, Target, closed_loop, open_loop
from loadtest.http_client import ClientError, ServiceConnection
from loadtest.requests import http_request, in_columns, in_objects
from tests.loadtest.small_server import CLOSE, DIE, HANG, NOISE, REPLY, Script, small_server

REQUESTS = [http_request("/v1/score", f'{{"number": {number}}}'.encode()) for number in range(7)]
BRIEF = LoadLimits(connections=4, patience_s=0.6)


def test_every_request_is_sent_once_in_turn_and_answered() -> None:
    script = Script()
    with small_server(script) as url:
        found = open_loop(Target(url, REQUESTS), constant(200, 0.2), 0.2)

    assert [json.loads(body)["number"] for body in script.bodies] == [number % 7 for number in range(40)]
    assert (found.offered, found.statuses, found.lost, found.unanswered) == (40, {200: 40}, 0, 0)
    assert found.latency.count == found.late.count == 40
    assert found.in_time <= 40
    assert found.goodput == found.in_time / 0.2


def test_a_process_with_many_open_files_sends_and_waits_alike() -> None:
    with ExitStack() as held, small_server(Script()) as url:
        for _ in range(1_100):
            held.enter_context(open(os.devnull, "rb"))
        found = open_loop(Target(url, REQUESTS), constant(100, 0.1), 0.1)

    assert (found.statuses, found.unanswered) == ({200: 10}, 0)


def test_a_stall_counts_for_all_that_were_due_meanwhile() -> None:
    """A closed loop would send nothing during the stall, and see one slow reply."""
    script = Script(lambda number: (REPLY, 200, 0.4 if number == 0 else 0.0))
    with small_server(script) as url:
        found = open_loop(Target(url, REQUESTS), constant(100, 0.3), 0.3, LoadLimits(connections=1, most=1))

    assert (found.statuses, found.connections) == ({200: 30}, 1)
    # The last of 30 was due at .29 s, and could not be answered before .4 s.
    assert found.latency.percentile_ms(1) > 100
    assert found.latency.percentile_ms(50) > 240
    assert found.latency.percentile_ms(100) >= 400


def test_outcomes_are_told_apart() -> None:
    statuses = [200, 429, 504, 200, 500]
    script = Script(lambda number: (CLOSE, 0, 0.0) if number % 6 == 5 else (REPLY, statuses[number % 6], 0.0))
    with small_server(script) as url:
        found = open_loop(Target(url, REQUESTS), constant(300, 0.2), 0.2, BRIEF)

    assert found.offered == 60
    assert found.statuses == {200: 20, 429: 10, 504: 10, 500: 10}
    assert (found.lost, found.unanswered) == (10, 0)
    assert found.latency.count == 20
    told = found.as_json()
    assert told["statuses"] == {"200": 20, "429": 10, "500": 10, "504": 10, "lost": 10, "unanswered": 0}


def test_replies_in_part_are_no_goodput() -> None:
    def reply(number: int) -> bytes:
        return (
            b'{"candidates":{},"degraded":{"a":1}}' if number % 4 == 1 else b'{"candidates":{"id":["\\"degraded\\":"]}}'
        )

    script = Script(lambda number: (REPLY, 200 if number % 4 < 3 else 429, 0.0), reply)
    with small_server(script) as url:
        # A second in which to answer what is asked at once, so that all comes in time.
        found = open_loop(Target(url, REQUESTS), np.zeros(40), 1.0, BRIEF)

    assert found.statuses == {200: 30, 429: 10}
    assert (found.degraded, found.in_time, found.latency.count) == (10, 20, 30)
    assert found.as_json()["degraded"] == 10


def test_more_connections_are_opened_when_all_are_busy_but_not_without_end() -> None:
    script = Script(lambda number: (REPLY, 200, 0.3))
    with small_server(script) as url:
        found = open_loop(Target(url, REQUESTS), np.zeros(20), 0.1, LoadLimits(connections=2, most=9))

    assert script.connections == 9
    assert found.statuses == {200: 20}


def test_a_few_clients_each_send_when_they_have_their_reply() -> None:
    script = Script(lambda number: (REPLY, 429 if number == 3 else 200, 0.01))
    with small_server(script) as url:
        found = closed_loop(Target(url, REQUESTS), 3, 0.3, BRIEF)

    assert script.connections == 3
    assert found.statuses[429] == 1
    assert found.offered == len(script.bodies) == sum(found.statuses.values())
    assert found.statuses[200] >= found.in_time > 0


def test_a_client_that_lost_its_connection_takes_another() -> None:
    script = Script(lambda number: (CLOSE, 0, 0.0) if number in (2, 4) else (REPLY, 200, 0.005))
    with small_server(script) as url:
        found = closed_loop(Target(url, REQUESTS), 2, 0.3, BRIEF)

    assert script.connections == 4
    assert found.lost == 2
    assert found.statuses[200] > 2


@pytest.mark.parametrize("loop", ["open", "closed"])
def test_nobody_there_is_an_error(loop: str) -> None:
    with small_server(Script()) as url:
        pass
    with pytest.raises(ClientError, match=rf"{url}: no connection: "):
        _run(loop, url)


@pytest.mark.parametrize("loop", ["open", "closed"])
def test_a_service_that_hangs_is_an_error(loop: str) -> None:
    script = Script(lambda number: (HANG, 0, 0.0))
    with (
        small_server(script) as url,
        pytest.raises(ClientError, match=r"hangs: \d+ requests are waiting, and nothing came for 0.6 s"),
    ):
        _run(loop, url)


@pytest.mark.parametrize("loop", ["open", "closed"])
def test_a_service_that_dies_on_the_way_is_an_error(loop: str) -> None:
    script = Script(lambda number: (DIE if number == 9 else REPLY, 200, 0.0))
    with small_server(script) as url, pytest.raises(ClientError, match=rf"{url}: no connection: "):
        _run(loop, url)
    assert len(script.bodies) >= 10


def test_what_has_no_reply_in_the_end_is_counted() -> None:
    script = Script(lambda number: (HANG, 0, 0.0) if number == 2 else (REPLY, 200, 0.0))
    with small_server(script) as url:
        found = open_loop(Target(url, REQUESTS), constant(50, 0.2), 0.2, LoadLimits(connections=4, patience_s=0.5))

    assert (found.statuses, found.unanswered) == ({200: 9}, 1)


def test_what_is_no_reply_loses_the_connection() -> None:
    script = Script(lambda number: (NOISE, 0, 0.0) if number == 1 else (REPLY, 200, 0.0))
    with small_server(script) as url:
        found = open_loop(Target(url, REQUESTS), constant(50, 0.2), 0.2, BRIEF)

    assert (found.statuses, found.lost) == ({200: 9}, 1)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1:1", "127.0.0.1:8080", "http://"])
def test_what_is_no_address_is_told(url: str) -> None:
    with pytest.raises(ClientError, match="is not a service's address"):
        _run("open", url)


def _run(loop: str, url: str) -> None:
    target = Target(url, REQUESTS)
    if loop == "open":
        open_loop(target, constant(50, 2), 2, BRIEF)
    else:
        closed_loop(target, 2, 2, BRIEF)


def test_arrivals_have_their_rate() -> None:
    assert constant(50, 2).tolist() == [number / 50 for number in range(100)]
    times = poisson(500, 40, seed=3)
    gaps = np.diff(times)
    assert len(times) == pytest.approx(20_000, abs=5 * 20_000**0.5)
    assert gaps.min() >= 0
    assert times[-1] < 40
    # Exponential: as wide as its mean, and memoryless.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert (gaps > 2 / 500).mean() == pytest.approx(np.exp(-2), abs=0.01)
    assert not np.array_equal(times, poisson(500, 40, seed=4))
    assert np.array_equal(times, poisson(500, 40, seed=3))


def test_bursts_come_together() -> None:
    times = bursts(400, 20, seed=1, size=8)

    assert len(times) == pytest.approx(8_000, abs=5 * 8 * 1_000**0.5)
    assert all(np.ptp(group) == 0 for group in times.reshape(-1, 8))
    assert len(np.unique(times)) == len(times) // 8


def test_both_forms_ask_the_same() -> None:
    body = b'{"user_id": "u1", "candidates": {"id": ["a", "b"], "bid": [0.5, 1.0]}}'
    (columns,), (objects,) = in_columns([body]), in_objects([body])

    assert columns.endswith(b"\r\n\r\n" + body)
    assert columns.startswith(b"POST /v1/score HTTP/1.1\r\n")
    document = json.loads(objects.partition(b"\r\n\r\n")[2])
    assert document == {"user_id": "u1", "candidates": [{"id": "a", "bid": 0.5}, {"id": "b", "bid": 1.0}]}


def test_a_witness_sees_every_reply_with_its_body() -> None:
    script = Script(lambda number: (REPLY, 200, 0.0) if number % 2 else (CLOSE, 0, 0.0))
    seen: list[Seen] = []
    with small_server(script) as url:
        target = Target(url, [http_request("/v1/score", b"%d" % number) for number in range(3)])
        outcome = open_loop(target, constant(50, 0.4), 0.4, LoadLimits(connections=1, goes_on=True), seen.append)

    assert len(seen) == outcome.offered == 20
    assert Counter(one.status for one in seen) == {200: 10, LOST: 10}
    assert {one.body for one in seen if one.status == 200} == {b"{}"}
    assert all(one.due <= one.sent <= one.over for one in seen)
    assert Counter(one.request for one in seen).keys() == set(target.requests)


def test_a_service_that_dies_refuses_what_comes_later_where_the_load_goes_on() -> None:
    seen: list[Seen] = []
    with small_server(Script(lambda number: (DIE if number == 5 else REPLY, 200, 0.0))) as url:
        target = Target(url, [http_request("/v1/score", b"{}")])
        outcome = open_loop(target, constant(50, 0.4), 0.4, LoadLimits(connections=1, goes_on=True), seen.append)

    came = Counter(one.status for one in seen)
    assert (came[200], came[LOST]) == (5, 1)
    assert came[REFUSED] == 14
    assert outcome.lost == 15


def test_a_load_that_is_stopped_sends_no_more() -> None:
    stopped = threading.Event()
    seen: list[Seen] = []

    def witness(one: Seen) -> None:
        seen.append(one)
        if len(seen) == 5:
            stopped.set()

    with small_server(Script()) as url:
        target = Target(url, [http_request("/v1/score", b"{}")])
        outcome = open_loop(target, constant(50, 60.0), 60.0, None, witness, stopped)

    assert 5 <= len(seen) == outcome.statuses[200] < 1_000


@pytest.mark.parametrize(
    "url", ["", "localhost", "https://127.0.0.1", "http://", "http://host:port", "http://[::1", "http://h:99999"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ClientError, match="is not a service's address"):
        ServiceConnection(url)
