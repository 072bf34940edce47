"""One running service with a playground, with two models and words that would do harm as markup."""

from collections.abc import Iterator

import pytest

from msd.contract.bundle import Bundle
from tests.service.live import LiveService
from tests.service.playground.worded import compared_service, with_words


@pytest.fixture(scope="package")
def worded(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle that is served."""
    return with_words(tmp_path_factory.mktemp("playground") / "with")


@pytest.fixture(scope="package")
def playground(worded: Bundle, other_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service with a playground that compares with another model."""
    with compared_service(worded, other_bundle, tmp_path_factory.mktemp("service")) as running:
        yield running
