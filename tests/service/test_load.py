"""More work than the service takes on, and its end: 429, 504, health during runs, SIGTERM without loss."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from msd.contract.bundle import Bundle
from tests.bundles.factory import AT
from tests.service.faults import ModelRuns
from tests.service.live import LiveService, live_service, wait_until
from tests.service.load import wait_for_rows

REQUEST: dict[str, Any] = {"user_id": "u1", "at": AT, "candidates": {"id": [f"i{n}" for n in range(100)]}}


def ask(service: LiveService, within_ms: int = 60_000) -> httpx.Response:
    """One request that has so much time, on a connection of its own."""
    with service.client() as client:
        return client.post("/v1/score", json=REQUEST, headers={"x-deadline-ms": str(within_ms)})


def test_health_answers_while_the_model_runs_and_sigterm_lets_it_end(bundle: Bundle, tmp_path: Path) -> None:
    runs = ModelRuns(tmp_path)
    with live_service(bundle.folder, tmp_path, prepare=runs.obey) as running, ThreadPoolExecutor(1) as pool:
        with runs.held():
            scoring = pool.submit(ask, running)
            wait_until(lambda: running.metric("msd_queued_rows") > 0)
            with running.client() as client:
                for path in ("/health/live", "/health/ready"):
                    assert client.get(path).status_code == 200
            running.process.terminate()
            wait_until(lambda: "draining" in [line["event"] for line in running.log()])
        assert scoring.result().status_code == 200
        assert running.process.wait(120) == 0


def test_refusals_at_the_door_are_whole_replies_and_keep_their_connections(bundle: Bundle, tmp_path: Path) -> None:
    """While there is too much to do, requests that came whole are refused before anything is made of them."""
    runs = ModelRuns(tmp_path)
    with (
        live_service(bundle.folder, tmp_path, prepare=runs.obey) as running,
        ThreadPoolExecutor(3) as pool,
        running.client() as client,
    ):
        # How long a run takes is learned, and then that a moment is too little to wait for another.
        runs.slow_down(0.03)
        assert ask(running).status_code == 200
        wait_for_rows(running, 0)
        runs.slow_down(0)
        hurried = {"content-type": "application/json", "x-deadline-ms": "2000", "x-request-id": "mine"}
        body = json.dumps(REQUEST).encode()
        with runs.held():
            scoring = [pool.submit(ask, running) for _ in range(2)]
            wait_for_rows(running, 200)
            # The last is no JSON: nothing is parsed.
            answers = [client.post("/v1/score", content=sent, headers=hurried) for sent in (body, body, b"[" * 5_000)]
            for answer in answers:
                assert answer.status_code == 429
                assert answer.json()["error"]["code"] == "overloaded"
                assert answer.headers["retry-after"] == "1"
                assert answer.headers["x-request-id"] == "mine"
                assert "connection" not in answer.headers
            assert running.metric('msd_requests_total{code="429"}') == 3
            # What is no scoring request, and what has the time, goes the usual way.
            assert client.get("/health/live").status_code == 200
            json_type = {"content-type": "application/json"}
            mistaken = pool.submit(client.post, "/v1/score", content=b"{", headers=json_type)
            # So does one whose body is still to come, when it has come.
            with socket.create_connection(("127.0.0.1", running.port), timeout=60) as slow:
                head = "".join(f"{name}: {value}\r\n" for name, value in hurried.items())
                length = f"Content-Length: {len(body)}\r\n"
                slow.sendall(f"POST /v1/score HTTP/1.1\r\nHost: x\r\n{length}{head}\r\n".encode())
                slow.sendall(body[:10])
                wait_until(lambda: running.metric("msd_connections") >= 2)
                slow.sendall(body[10:])
                assert slow.recv(12) in (b"HTTP/1.1 429", b"HTTP/1.1 504")
        assert [one.result().status_code for one in (*scoring, mistaken)] == [200, 200, 400]
        # Where a run takes longer than a request may, it is tried every now and then.
        wait_until(lambda: ask(running, within_ms=150).status_code == 200)
