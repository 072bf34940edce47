"""One service that logs every request, shared by tests that leave it as it is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from msd.contract.bundle import Bundle
from tests.service.live import LiveService, live_service
from tests.service.request_log.log import connected


class Logging(NamedTuple):
    """A service, and where its log is."""

    service: LiveService
    folder: Path


@pytest.fixture(scope="module")
def logging(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logging]:
    """The plain bundle served with everything logged at once."""
    folder = tmp_path_factory.mktemp("logging")
    settings: dict[str, Any] = {"log_dir": folder / "log", "log_sample": 1, "log_flush_seconds": 0.2}
    with live_service(bundle.folder, folder, **settings) as service:
        connected(service)
        yield Logging(service, folder / "log")
