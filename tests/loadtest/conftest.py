"""A real service over a small bundle."""

from collections.abc import Iterator

import pytest

from msd.contract.bundle import Bundle
from tests.service.live import LiveService, live_service


@pytest.fixture(scope="session")
def service(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service over the bundle's own rows."""
    with live_service(bundle.folder, tmp_path_factory.mktemp("service")) as running:
        yield running
