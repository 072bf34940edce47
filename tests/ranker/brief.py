"""A few steps fit the taste of small data: wherever the fixture is imported, and after it."""

from collections.abc import Iterator

import pytest

TASTE = ("msd.training.train_taste._STEPS", 5)


@pytest.fixture(scope="session", autouse=True)
def brief_tastes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*TASTE)
        yield
