"""An archive of the plain bundle, and a server that keeps it."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from msd.contract.bundle import Bundle
from operations.fetch.archive import pack
from tests.operations.fetch.keeper import Keeper, keeper


class Archive(NamedTuple):
    """A packed bundle."""

    path: Path
    content: bytes
    digest: str
    bundle_id: str


@pytest.fixture(scope="session")
def archive(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Of the plain bundle; nobody changes it."""
    path = tmp_path_factory.mktemp("archive") / "bundle.tar.gz"
    digest = pack(bundle.folder, path)
    return Archive(path, path.read_bytes(), f"sha256:{digest}", bundle.bundle_id)


@pytest.fixture
def kept(archive: Archive) -> Iterator[Keeper]:
    """A server that has it as /bundle.tar.gz."""
    with keeper() as running:
        running.files["/bundle.tar.gz"] = archive.content
        yield running
