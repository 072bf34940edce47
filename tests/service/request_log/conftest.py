"""One service that logs every request, shared by tests that leave it as it is."""

from collections.abc import Iterator

import pytest

from msd.contract.bundle import Bundle
from tests.service.request_log.log import Logging, logging_service


@pytest.fixture(scope="module")
def logging(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logging]:
    with logging_service(bundle, tmp_path_factory.mktemp("logging")) as running:
        yield running
