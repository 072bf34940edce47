"""What hangs is noticed by those who ask, and does not keep the process from its end."""

import json
import re
import signal
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from msd.contract.bundle import Bundle
from tests.bundles.factory import golden_requests
from tests.service.faults import IN_C, IN_PYTHON, WITH_LOCK, ModelRuns, hang_on_signals, obey_with_a_slow_log
from tests.service.live import LiveService, freeze, live_service, wait_until

GOOD = golden_requests()[0]


def send(service: LiveService, document: dict[str, object]) -> socket.socket:
    """A scoring request whose reply nobody waits for."""
    body = json.dumps(document).encode()
    connection = socket.create_connection(("127.0.0.1", service.port))
    head = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    connection.sendall(head % len(body) + body)
    return connection


def status_of(client: httpx.Client, path: str) -> int:
    return client.get(path).status_code


def hangs(client: httpx.Client) -> set[str]:
    """The parts that hang. On a busy machine, one that does not may be told of for a moment, too."""
    return set(client.get("/health/live").json()["hangs"])


def silence(client: httpx.Client) -> dict[str, float]:
    """Seconds without progress by part, as the metrics say."""
    found = re.findall(r"^msd_(\w+)_silent_seconds (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return {part: float(seconds) for part, seconds in found}


@pytest.fixture
def watched(bundle: Bundle, tmp_path: Path) -> Iterator[LiveService]:
    """With an admin port, little patience with hanging, and ways to do it."""
    with live_service(bundle.folder, tmp_path, prepare=hang_on_signals, HANG_S=1, END_S=6, admin_port=0) as running:
        yield running


def test_runs_that_never_end_are_seen_by_liveness(bundle: Bundle, tmp_path: Path) -> None:
    runs = ModelRuns(tmp_path)
    with (
        live_service(bundle.folder, tmp_path, prepare=partial(obey_with_a_slow_log, runs), HANG_S=1) as running,
        running.client() as client,
    ):
        assert client.get("/health/live").json() == {"status": "live", "hangs": {}}
        with runs.held(), send(running, GOOD):
            wait_until(lambda: hangs(client) == {"scoring"})
            assert client.get("/health/ready").json()["missing"]["scoring"].startswith("hangs for ")
            assert status_of(client, "/v2/health/live") == status_of(client, "/v2/health/ready") == 503
            wait_until(lambda: silence(client)["scoring"] > 1 > silence(client)["loop"])
            assert running.metric("msd_longest_run_seconds") > 1
            wait_until(lambda: any(line["event"] == "hangs" for line in running.log()))
            assert "most recent call first" in (tmp_path / "service.err").read_text()
            assert running.terminate() == 1
    (line,) = [line for line in running.log() if line["event"] == "hangs"]
    assert line["scoring"].startswith("hangs for ")
    assert "run_left_behind" in [line["event"] for line in running.log()]


def test_one_hung_thread_of_two_is_measured_and_the_other_scores(bundle: Bundle, tmp_path: Path) -> None:
    runs = ModelRuns(tmp_path)
    with live_service(bundle.folder, tmp_path, prepare=runs.obey, workers=2, HANG_S=1, END_S=6) as running:
        with runs.held(), send(running, GOOD):
            wait_until(lambda: running.metric("msd_longest_run_seconds") > 2)
            runs.let_others_pass()
            assert running.score(GOOD).status_code == 200
            with running.client() as client:
                wait_until(lambda: status_of(client, "/health/live") == status_of(client, "/health/ready") == 200)
            assert running.terminate() == 1


def test_loop_that_hangs_is_seen_at_the_admin_port(watched: LiveService) -> None:
    watched.process.send_signal(IN_PYTHON)
    with watched.admin() as client:
        wait_until(lambda: hangs(client) == {"event_loop"})
        assert status_of(client, "/health/ready") == 503
        assert silence(client)["loop"] > 1 > silence(client)["scoring"]
    with pytest.raises(httpx.TimeoutException), watched.client() as client:
        client.get("/health/live", timeout=1.0)


def test_process_that_was_stopped_for_a_while_is_live_again(bundle: Bundle, tmp_path: Path) -> None:
    with live_service(bundle.folder, tmp_path, admin_port=0, HANG_S=600) as running:
        freeze(running.process.pid)
        with pytest.raises(httpx.TimeoutException), running.admin() as client:
            client.get("/health/live", timeout=1.0)
        running.process.send_signal(signal.SIGCONT)
        with running.admin() as client:
            wait_until(lambda: status_of(client, "/health/live") == 200)
        assert running.score(GOOD).status_code == 200
        assert running.terminate() == 0


@pytest.mark.parametrize("how", [IN_PYTHON, IN_C], ids=["in Python", "in C"])
def test_signal_ends_a_process_whose_loop_hangs(bundle: Bundle, tmp_path: Path, how: signal.Signals) -> None:
    with live_service(bundle.folder, tmp_path, prepare=hang_on_signals, END_S=1) as running:
        running.process.send_signal(how)
        with pytest.raises(httpx.TimeoutException), running.client() as client:
            client.get("/health/live", timeout=1.0)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(60) == 1
    assert re.search(r"faults\.py.* in _(hang|deadlock)", (tmp_path / "service.err").read_text())


def test_process_in_which_no_thread_gets_pythons_lock_ends_by_itself(watched: LiveService) -> None:
    watched.process.send_signal(WITH_LOCK)
    assert watched.process.wait(60) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_ends_a_process_that_hangs(bundle: Bundle, tmp_path: Path, number: signal.Signals) -> None:
    with live_service(bundle.folder, tmp_path, prepare=hang_on_signals, drain_seconds=600) as running:
        running.process.send_signal(IN_C)
        with pytest.raises(httpx.TimeoutException), running.client() as client:
            client.get("/health/live", timeout=1.0)

        def has_ended() -> bool:
            """Of two signals that come at once the process may see one."""
            running.process.send_signal(number)
            return running.process.poll() is not None

        wait_until(has_ended)
        assert running.process.returncode == 0


def test_request_behind_a_hanging_run_gets_504(bundle: Bundle, tmp_path: Path) -> None:
    """In a run or in the queue, on the native path or through the app, which scores described items."""
    native: dict[str, Any] = {"user_id": "u1", "candidates": {"id": ["i1", "i2"]}}
    described, runs = {**native, "items": {"i1": {}}}, ModelRuns(tmp_path)
    with live_service(bundle.folder, tmp_path, prepare=runs.obey, workers=2) as service, service.client() as client:

        def hurried(document: dict[str, Any]) -> httpx.Response:
            return client.post("/v1/score", json=document, headers={"X-Deadline-Ms": "400"})

        with runs.held():
            answers = [hurried(native)]
            runs.let_others_pass()
            # The other thread goes on.
            assert [service.score(document).status_code for document in (native, described)] == [200, 200]
            with runs.held():
                answers += [hurried(document) for document in (described, native, described)]
        for answer in answers:
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (504, "deadline_exceeded")
            waited = re.search(r"\((\d+) ms until it was queued, (\d+) since\)", error["message"])
            assert waited, error["message"]
            assert int(waited[1]) + int(waited[2]) >= 390
        assert service.metric('msd_shed_total{reason="deadline"}') == 4
        # Abandoned requests do not count as waiting.
        assert service.metric("msd_queued_rows") == 0
