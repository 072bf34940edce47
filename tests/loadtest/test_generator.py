"""Requests are sent when they are due, each is counted once, and their times count from when they were due."""

import json
import math
import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.generator import LOST, REFUSED, LoadLimits, Seen, Target, closed_loop, open_loop
from loadtest.http_client import ClientError, ServiceConnection
from loadtest.outcome import Durations
from loadtest.promptness import prompt
from loadtest.requests import http_request
from loadtest.traffic import bursts, constant, poisson
from tests.scripted_server import HANG, Act, End, Reply, scripted_server

REQUESTS = [http_request("/v1/score", f'{{"number": {number}}}'.encode()) for number in range(7)]
PATIENT = LoadLimits(connections=4, patience_s=60.0)


def test_sends_each_request_once_in_turn() -> None:
    with scripted_server(Reply()) as server:
        found = open_loop(Target(server.url, REQUESTS), constant(200, 0.2), 0.2)

    assert [json.loads(body)["number"] for body in server.bodies] == [number % 7 for number in range(40)]
    assert (found.offered, found.statuses, found.lost, found.unanswered) == (40, {200: 40}, 0, 0)
    assert found.latency.count == found.late.count == 40
    assert found.in_time <= 40
    assert found.goodput == found.in_time / 0.2


def test_process_with_many_open_files_sends_alike() -> None:
    with ExitStack() as held, scripted_server(Reply()) as server:
        for _ in range(1_100):
            held.enter_context(open(os.devnull, "rb"))
        found = open_loop(Target(server.url, REQUESTS), constant(100, 0.1), 0.1)

    assert (found.statuses, found.unanswered) == ({200: 10}, 0)


def test_stall_counts_for_all_that_were_due_meanwhile() -> None:
    """A closed loop would send nothing during the stall, and see one slow reply."""
    with scripted_server(Reply(wait_s=0.4), Reply()) as server:
        found = open_loop(Target(server.url, REQUESTS), constant(100, 0.3), 0.3, LoadLimits(connections=1, most=1))

    assert (found.statuses, found.connections) == ({200: 30}, 1)
    # The last of 30 was due at .29 s, and could not be answered before .4 s.
    assert found.latency.percentile_ms(1) > 100
    assert found.latency.percentile_ms(50) > 240
    assert found.latency.percentile_ms(100) >= 400


def test_outcomes_are_counted_apart() -> None:
    statuses = [200, 429, 504, 200, 500]
    acts: list[Act] = [*(Reply(status) for status in statuses), End.CLOSE]
    with scripted_server(*acts * 10) as server:
        found = open_loop(Target(server.url, REQUESTS), constant(300, 0.2), 0.2, PATIENT)

    assert found.offered == 60
    assert found.statuses == {200: 20, 429: 10, 504: 10, 500: 10}
    assert (found.lost, found.unanswered) == (10, 0)
    assert found.latency.count == 20
    assert found.as_json()["statuses"] == {"200": 20, "429": 10, "500": 10, "504": 10, "lost": 10, "unanswered": 0}


def test_partial_replies_are_no_goodput() -> None:
    whole, partial = b'{"candidates":{"id":["\\"degraded\\":"]}}', b'{"candidates":{},"degraded":{"a":1}}'
    acts = [Reply(body=whole), Reply(body=partial), Reply(body=whole), Reply(429, whole)]
    with scripted_server(*acts * 10) as server:
        # Ten seconds in which to answer what is asked at once, so that all comes in time.
        found = open_loop(Target(server.url, REQUESTS), np.zeros(40), 10.0, PATIENT)

    assert found.statuses == {200: 30, 429: 10}
    assert (found.degraded, found.in_time, found.latency.count) == (10, 20, 30)
    assert found.as_json()["degraded"] == 10


def test_opens_more_connections_up_to_the_limit() -> None:
    with scripted_server(Reply(wait_s=0.3)) as server:
        found = open_loop(Target(server.url, REQUESTS), np.zeros(20), 0.1, LoadLimits(connections=2, most=9))

    assert server.connections == 9
    assert found.statuses == {200: 20}


def test_closed_loop_sends_when_a_reply_came() -> None:
    soon = Reply(wait_s=0.01)
    with scripted_server(*[soon] * 3, Reply(429), soon) as server:
        found = closed_loop(Target(server.url, REQUESTS), 3, 0.7, PATIENT)

    assert server.connections == 3
    assert found.statuses[429] == 1
    assert found.offered == len(server.bodies) == sum(found.statuses.values())
    assert found.statuses[200] >= found.in_time > 0


def test_client_replaces_a_lost_connection() -> None:
    soon = Reply(wait_s=0.005)
    with scripted_server(soon, soon, End.CLOSE, soon, End.CLOSE, soon) as server:
        found = closed_loop(Target(server.url, REQUESTS), 2, 0.7, PATIENT)

    assert server.connections == 4
    assert found.lost == 2
    assert found.statuses[200] > 2


def test_sends_nothing_on_a_connection_that_the_service_has_closed() -> None:
    """While this process did something else."""
    with scripted_server(Reply(ends=True)) as server:

        def until_closed(_: Seen) -> None:
            while server.writers[-1].get_extra_info("socket").fileno() >= 0:
                time.sleep(0.001)
            time.sleep(0.02)

        limits = LoadLimits(connections=1, most=1, patience_s=60.0)
        found = open_loop(Target(server.url, REQUESTS), constant(100, 0.1), 0.1, limits, until_closed)

    assert (found.statuses, found.lost, found.unanswered) == ({200: 10}, 0, 0)


@pytest.mark.parametrize("loop", ["open", "closed"])
@pytest.mark.parametrize(
    ("ends_at", "end", "message"),
    [
        (0, HANG, r"hangs: \d+ requests are waiting, and nothing came for 0.6 s"),
        (9, End.DIE, "{url}: no connection: "),
        (None, Reply(), "{url}: no connection: "),
    ],
    ids=["hangs", "dies", "absent"],
)
def test_absent_service_is_an_error(loop: str, ends_at: int | None, end: Act, message: str) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(scripted_server(*[Reply()] * (ends_at or 0), end))
        if ends_at is None:
            stack.close()
        with pytest.raises(ClientError, match=message.format(url=server.url) if end != HANG else message):
            _run(loop, server.url, LoadLimits(connections=4, patience_s=0.6) if end == HANG else PATIENT)
    assert len(server.bodies) >= (ends_at or 0)


@pytest.mark.parametrize(
    ("end", "lost", "unanswered"),
    [(HANG, 0, 1), (b"no HTTP\r\n\r\n", 1, 0)],
    ids=["no reply at the end", "not HTTP"],
)
def test_counts_a_request_without_a_reply(end: Act, lost: int, unanswered: int) -> None:
    with scripted_server(Reply(), Reply(), end, Reply()) as server:
        limits = LoadLimits(connections=4, patience_s=1.5)
        found = open_loop(Target(server.url, REQUESTS), constant(50, 0.2), 0.2, limits)

    assert (found.statuses, found.lost, found.unanswered) == ({200: 9}, lost, unanswered)


def test_slow_service_is_waited_for_as_long_as_it_replies() -> None:
    with scripted_server(Reply(wait_s=0.2)) as server:
        limits = LoadLimits(connections=1, most=1, patience_s=1.4)
        found = open_loop(Target(server.url, REQUESTS), constant(100, 0.08), 0.08, limits)

    assert (found.statuses, found.unanswered) == ({200: 8}, 0)


def _run(loop: str, url: str, limits: LoadLimits = PATIENT) -> None:
    target = Target(url, REQUESTS)
    if loop == "open":
        open_loop(target, constant(50, 2), 2, limits)
    else:
        closed_loop(target, 2, 2, limits)


def test_arrivals_have_their_rate_and_bursts_come_together() -> None:
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

    times = bursts(400, 20, seed=1, size=8)
    assert len(times) == pytest.approx(8_000, abs=5 * 8 * 1_000**0.5)
    assert all(np.ptp(group) == 0 for group in times.reshape(-1, 8))
    assert len(np.unique(times)) == len(times) // 8


def test_witness_gets_every_reply_with_its_body() -> None:
    seen: list[Seen] = []
    with scripted_server(*(End.CLOSE, Reply()) * 10) as server:
        target = Target(server.url, [http_request("/v1/score", b"%d" % number) for number in range(3)])
        outcome = open_loop(target, constant(50, 0.4), 0.4, LoadLimits(connections=1, goes_on=True), seen.append)

    assert len(seen) == outcome.offered == 20
    assert Counter(reply.status for reply in seen) == {200: 10, LOST: 10}
    assert {reply.body for reply in seen if reply.status == 200} == {b"{}"}
    assert all(reply.due <= reply.sent <= reply.over for reply in seen)
    assert Counter(reply.request for reply in seen).keys() == set(target.requests)


def test_dead_service_refuses_later_requests_if_the_load_goes_on() -> None:
    seen: list[Seen] = []
    with scripted_server(*[Reply()] * 5, End.DIE) as server:
        target = Target(server.url, [http_request("/v1/score", b"{}")])
        # One after another: else the end of one might cut the reply to another off.
        limits = LoadLimits(connections=1, most=1, goes_on=True)
        outcome = open_loop(target, constant(50, 0.4), 0.4, limits, seen.append)

    came = Counter(reply.status for reply in seen)
    assert (came[200], came[LOST]) == (5, 1)
    assert came[REFUSED] == 14
    assert outcome.lost == 15


def test_stopped_load_sends_no_more() -> None:
    stopped = threading.Event()
    seen: list[Seen] = []

    def witness(reply: Seen) -> None:
        seen.append(reply)
        if len(seen) == 5:
            stopped.set()

    with scripted_server(Reply()) as server:
        target = Target(server.url, [http_request("/v1/score", b"{}")])
        outcome = open_loop(target, constant(50, 60.0), 60.0, None, witness, stopped)

    assert 5 <= len(seen) == outcome.statuses[200] < 1_000


@pytest.mark.parametrize("url", ["", "localhost", "https://127.0.0.1", "http://host:port", "http://[::1", "ftp://h"])
def test_rejects_invalid_address(url: str) -> None:
    for connect in (ServiceConnection, lambda url: _run("open", url)):
        with pytest.raises(ClientError, match="is not a service's address"):
            connect(url)


def _durations(seconds: list[float]) -> Durations:
    durations = Durations()
    for duration in seconds:
        durations.record(duration)
    return durations


def test_percentiles_are_exact() -> None:
    durations = _durations([number / 1e3 for number in range(100, 0, -1)])
    assert [round(durations.percentile_ms(percent), 9) for percent in (0.1, 50, 99, 99.9, 100)] == [1, 50, 99, 100, 100]
    assert math.isnan(Durations().percentile_ms(50))
    assert math.isnan(Durations().mean_ms)


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=50), st.lists(st.floats(0, 1e5), max_size=50))
def test_percentiles_of_several_runs_are_those_of_one(some: list[float], others: list[float]) -> None:
    together, whole = _durations(some), _durations(some + others)
    together.add(_durations(others))

    assert together.count == whole.count
    assert together.mean_ms == pytest.approx(whole.mean_ms)
    assert [together.percentile_ms(percent) for percent in (1, 50, 99)] == [
        whole.percentile_ms(percent) for percent in (1, 50, 99)
    ]
    assert whole.percentile_ms(100) == 1e3 * max(some + others)


def test_prompt_thread_is_as_nice_as_before() -> None:
    def schedule() -> tuple[int, int]:
        return os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def run() -> list[tuple[int, int]]:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.nice(0) + 3)
        before = schedule()
        with prompt():
            within = schedule()
        return [before, within, schedule()]

    with ThreadPoolExecutor(1) as pool:
        assert len(set(pool.submit(run).result())) == 1
