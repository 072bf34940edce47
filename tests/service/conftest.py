"""What compares the native core with Python needs it; that it is built wherever it can be, `tests/native` says."""

import pytest

import native

collect_ignore = [] if native.core else ["test_fast_route.py"]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
