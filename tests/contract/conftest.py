"""A real bundle for the contract's tests, and copies of it to damage."""

import shutil
from pathlib import Path

import pytest

from msd.contract.bundle import Bundle
from tests.bundles.factory import build_bundle


@pytest.fixture(scope="session")
def whole_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_bundle(tmp_path_factory.mktemp("bundles") / "whole")


@pytest.fixture
def folder(whole_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy with the times and the mark of the whole one."""
    return Path(shutil.copytree(whole_bundle.folder, tmp_path / "bundle"))
