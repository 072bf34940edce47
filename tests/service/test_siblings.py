"""Two workers with one queue: whoever is free takes what waits, and each request is answered once, whoever dies."""

import json
import os
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from msd.contract.bundle import Bundle
from tests.service.bundle_factory import AT
from tests.service.live import LiveService, live_service, wait_until
from tests.service.missed import Missed, again_if_missed, wait_to_see

REQUEST: dict[str, Any] = {"user_id": "u1", "at": AT, "candidates": {"id": [f"i{n}" for n in range(8)]}}
JSON = {"content-type": "application/json"}


class Pair:
    """A service of two workers, and clients whose kept connections are all the first one's."""

    def __init__(self, service: LiveService, clients: list[httpx.Client]) -> None:
        self.service = service
        self.clients = clients
        self._pool = ThreadPoolExecutor(len(clients))
        self._sent: list[Future[httpx.Response]] = []

    def send(self, client: int, padding: int = 0, headers: Mapping[str, str] | None = None) -> "Future[httpx.Response]":
        """A request over a client's connection. Spaces make its body larger."""
        body = json.dumps(REQUEST).encode() + b" " * padding
        sent = self._pool.submit(
            self.clients[client].post, "/v1/score", content=body, headers={**JSON, **(headers or {})}
        )
        self._sent = [*(one for one in self._sent if not one.done()), sent]
        return sent

    def metric(self, name: str) -> float:
        """As the service tells it."""
        return self.service.metric(name)

    def shared(self, by: str) -> float:
        """Requests that were there for all, by who scored them."""
        return self.metric(f'msd_shared_requests_total{{by="{by}"}}')

    def wait_for_work(self, workers: int) -> None:
        """Until so many requests are being scored. Raises Missed when one of those that were sent has ended."""
        wait_to_see(lambda: self.metric("msd_requests_at_work") == workers, self._sent)

    def pid(self, worker: int) -> int:
        """The process of a worker."""
        return [
            int(line["pid"])
            for line in self.service.log()
            if line["event"] == "worker_started" and line["worker"] == worker
        ][-1]


@contextmanager
def pair_of(bundle: Bundle, folder: Path, clients: int = 3, **settings: object) -> Iterator[Pair]:
    """Starts a pair. Which worker has a connection is told by its log."""
    given: dict[str, Any] = {"workers": 2, "log_level": "debug", "deadline_ms": 60_000, **settings}
    with live_service(bundle.folder, folder, **given) as service, ExitStack() as stack:
        wait_until(lambda: service.metric("msd_workers_ready") == 2)
        made = [stack.enter_context(service.client()) for _ in range(2 * (clients + 2))]
        for number, client in enumerate(made):
            assert client.get("/health/live", headers={"x-request-id": f"first-{number}"}).status_code == 200

        def worker_of(number: int) -> int:
            lines = [line for line in service.log() if line.get("request_id") == f"first-{number}"]
            return int(lines[0]["worker"]) if lines else 0

        wait_until(lambda: all(worker_of(number) for number in range(len(made))))
        of_first = [client for number, client in enumerate(made) if worker_of(number) == 1]
        # The other has more connections, so that none of these is sent away to it.
        for client in of_first[clients:]:
            client.close()
        yield Pair(service, of_first[:clients])


@pytest.fixture(scope="module")
def pair(slow_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """One for the tests that leave both workers alive."""
    with pair_of(slow_bundle, tmp_path_factory.mktemp("pair")) as made:
        yield made


def scores(answer: httpx.Response) -> Any:  # noqa: ANN401
    """The candidates of a reply, which has to be a success."""
    assert answer.status_code == 200, answer.text
    return answer.json()["candidates"]


@again_if_missed
def test_an_idle_worker_takes_what_waits_for_a_busy_one(pair: Pair) -> None:
    before = {name: pair.metric(name) for name in ('msd_requests_total{code="200"}', "msd_request_candidates_count")}
    runs = pair.metric('msd_stage_seconds_count{stage="run"}')
    taken = pair.shared("sibling")
    first = pair.send(0, headers={"x-request-id": "mine"})
    pair.wait_for_work(1)
    second = pair.send(1, padding=200_000, headers={"x-request-id": "the sibling's"})
    pair.wait_for_work(2)
    answers = [first.result(), second.result()]

    assert scores(answers[0]) == scores(answers[1])
    assert [one.headers["x-request-id"] for one in answers] == ["mine", "the sibling's"]
    for answer in answers:
        assert answer.headers["server-timing"].startswith("parse;dur=")
        assert "connection" not in answer.headers
    wait_until(lambda: pair.shared("sibling") == taken + 1)
    # What was taken counts once, wherever it was counted.
    wait_until(lambda: {name: pair.metric(name) - before[name] for name in before} == dict.fromkeys(before, 2))
    assert pair.metric('msd_stage_seconds_count{stage="run"}') - runs == 2
    lines = {line["request_id"]: line for line in pair.service.log() if line["event"] == "request"}
    for name in ("mine", "the sibling's"):
        assert (lines[name]["worker"], lines[name]["status"], lines[name]["candidates"]) == (1, 200, 8)
    assert pair.metric("msd_queued_rows") == 0
    # The connections go on.
    assert scores(pair.send(1).result()) == scores(answers[0])


@again_if_missed
def test_what_waits_comes_back_to_its_own_worker_too(pair: Pair) -> None:
    by = ("sibling", "own")
    before = sum(pair.shared(one) for one in by)
    answers = [pair.send(client) for client in (0, 1, 2)]
    assert len({json.dumps(scores(one.result())) for one in answers}) == 1
    wait_until(lambda: pair.metric("msd_requests_at_work") == 0)
    if sum(pair.shared(one) for one in by) < before + 2:
        raise Missed  # some had come only when others had ended
    assert sum(pair.shared(one) for one in by) == before + 2
    assert pair.shared("taken_back") == 0
    assert pair.metric("msd_requests_at_work") == 0


@again_if_missed
def test_a_refused_request_is_refused_by_whoever_takes_it(pair: Pair) -> None:
    first = pair.send(0)
    pair.wait_for_work(1)
    answer = pair.clients[1].post("/v1/score", content=b"{} ", headers=JSON)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "invalid"
    assert scores(first.result())


@again_if_missed
def test_of_a_client_that_left_nothing_is_run(pair: Pair) -> None:
    runs, gone = (
        pair.metric(name) for name in ('msd_stage_seconds_count{stage="run"}', 'msd_requests_total{code="499"}')
    )
    busy = [pair.send(0), pair.send(1)]
    pair.wait_for_work(2)
    with pytest.raises(httpx.ReadTimeout):
        pair.clients[2].post("/v1/score", json=REQUEST, timeout=0.05)
    for one in busy:
        assert scores(one.result())
    wait_until(lambda: pair.metric('msd_requests_total{code="499"}') == gone + 1)
    wait_until(lambda: pair.metric("msd_queued_rows") == 0)
    if pair.metric('msd_stage_seconds_count{stage="run"}') == runs + 3:
        raise Missed  # one of the two had ended before the third left
    assert pair.metric('msd_shed_total{reason="client_gone"}') >= 1
    assert pair.metric('msd_stage_seconds_count{stage="run"}') == runs + 2


@again_if_missed
def test_a_sibling_that_hangs_is_not_waited_for_and_writes_no_second_reply(pair: Pair) -> None:
    taken_back = pair.shared("taken_back")
    # Whichever of them the sibling has.
    first = pair.send(0, headers={"x-deadline-ms": "10000"})
    pair.wait_for_work(1)
    second = pair.send(1, headers={"x-deadline-ms": "10000"})
    pair.wait_for_work(2)
    os.kill(pair.pid(2), signal.SIGSTOP)
    try:
        assert scores(first.result())["id"] == scores(second.result())["id"]
    finally:
        os.kill(pair.pid(2), signal.SIGCONT)
    if pair.shared("taken_back") == taken_back:
        raise Missed  # the sibling was done before it was stopped
    assert pair.shared("taken_back") == taken_back + 1
    # Had the sibling written too, its reply would be taken for the next request's.
    wait_until(lambda: pair.metric("msd_requests_at_work") == 0)
    other = pair.clients[1].post("/v1/score", json={**REQUEST, "candidates": {"id": ["i200"]}})
    assert scores(other)["id"] == ["i200"]


@again_if_missed
def test_what_a_sibling_had_when_it_was_killed_is_scored_all_the_same(slow_bundle: Bundle, tmp_path: Path) -> None:
    with pair_of(slow_bundle, tmp_path) as pair:
        first = pair.send(0)
        pair.wait_for_work(1)
        second = pair.send(1)
        pair.wait_for_work(2)
        os.kill(pair.pid(2), signal.SIGKILL)
        assert scores(first.result()) == scores(second.result())
        if not pair.shared("taken_back"):
            raise Missed  # the sibling was done before it was killed
        assert pair.shared("taken_back") == 1
        assert scores(pair.send(1).result())
        wait_until(lambda: pair.metric('msd_requests_total{code="200"}') == 3)


@again_if_missed
def test_what_waits_outlives_its_own_worker_where_a_sibling_has_it(slow_bundle: Bundle, tmp_path: Path) -> None:
    with pair_of(slow_bundle, tmp_path) as pair:
        first = pair.send(0)
        pair.wait_for_work(1)
        second = pair.send(1)
        pair.wait_for_work(2)
        os.kill(pair.pid(1), signal.SIGKILL)
        assert scores(second.result())
        if first.exception() is None:
            raise Missed
        with pytest.raises(httpx.TransportError):
            first.result()
