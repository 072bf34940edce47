"""A model run that never ends: whoever waits is answered, a thread that is left scores others, and the service ends."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from msd.contract.bundle import Bundle
from service.telemetry.logs import LineWriter
from tests.service.live import LiveService, live_service, wait_until
from tests.service.model_runs import ModelRuns

GOOD: dict[str, Any] = {"user_id": "u1", "candidates": {"id": ["i1", "i2"]}}
IN_PYTHON: dict[str, Any] = {"items": {"i1": {}}}


@pytest.fixture
def runs(tmp_path: Path) -> ModelRuns:
    """Holds the runs of `service`."""
    return ModelRuns(tmp_path)


@pytest.fixture
def service(bundle: Bundle, runs: ModelRuns, tmp_path: Path) -> Iterator[LiveService]:
    """A service of two scoring threads, whose log is written a little later than elsewhere."""
    with live_service(bundle.folder, tmp_path, prepare=partial(_obey_with_a_slow_log, runs), workers=2) as running:
        yield running


def _obey_with_a_slow_log(runs: ModelRuns) -> None:
    runs.obey()
    is_written = LineWriter._is_written

    def is_written_late(writer: LineWriter, line: bytes) -> bool:
        time.sleep(0.01)
        return is_written(writer, line)

    setattr(LineWriter, "_is_written", is_written_late)  # noqa: B010 - a method, for all that are made from now on


def given_up(client: httpx.Client, document: dict[str, Any] = GOOD) -> httpx.Response:
    """What a request gets that does not wait long. Others wait as long as it takes: they are not held."""
    return client.post("/v1/score", json=document, headers={"X-Deadline-Ms": "400"})


@pytest.mark.parametrize("way", [{}, IN_PYTHON], ids=["native", "python"])
def test_nobody_waits_for_ever(service: LiveService, runs: ModelRuns, way: dict[str, Any]) -> None:
    with runs.held(), service.client() as client:
        answers = [given_up(client, GOOD | way)]
        runs.let_others_pass()
        # The other thread goes on.
        assert [service.score(GOOD | way).status_code for _ in range(20)] == [200] * 20
        with runs.held():
            answers += [given_up(client, GOOD | way) for _ in range(3)]
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert service.metric('msd_shed_total{reason="deadline"}') == 4
    # What was given up is not counted as waiting.
    assert service.metric("msd_queued_rows") == 0


def test_a_connection_goes_on_after_a_run_was_given_up(service: LiveService, runs: ModelRuns) -> None:
    with runs.held(), service.client() as client:
        first = given_up(client)
        runs.let_others_pass()
        found = [client.post("/v1/score", json=GOOD) for _ in range(2)]
    assert [one.status_code for one in (first, *found)] == [504, 200, 200]


def test_the_service_ends_with_a_run_at_hand(service: LiveService, runs: ModelRuns) -> None:
    with runs.held(), service.client() as client:
        # On a busy machine a request may be late before its run begins.
        wait_until(lambda: given_up(client).status_code == 504 and service.metric("msd_longest_run_seconds") > 0)
        assert service.terminate() == 1
    assert any(line["event"] == "run_left_behind" for line in service.log())


def test_what_cannot_be_taken_on_is_refused_before_it_is_parsed(bundle: Bundle, tmp_path: Path) -> None:
    runs = ModelRuns(tmp_path)
    most = {**GOOD, **IN_PYTHON, "candidates": {"id": [f"i{n}" for n in range(100)]}}
    with (
        live_service(bundle.folder, tmp_path, prepare=runs.obey, max_candidates=100, MAX_QUEUED_ROWS=100) as service,
        ThreadPoolExecutor(1) as pool,
    ):
        with runs.held():
            asked = pool.submit(service.score, most)
            wait_until(lambda: service.metric("msd_queued_rows") == 100)
            with service.client() as client:
                # What is no JSON at all would get 400.
                answer = client.post("/v1/score", content=b"[" * 5_000, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "overloaded")
        assert asked.result().status_code == 200
