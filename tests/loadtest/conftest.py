"""A small bundle, a real service over it, and requests with the scores that it gives."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from msd.contract.bundle import GOLDENS, Bundle
from msd.contract.golden import read_goldens
from tests.service.bundle_factory import build_bundle
from tests.service.live import LiveService, live_service
from tests.service.ranker_graph import Recipe


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle that the service serves."""
    return build_bundle(tmp_path_factory.mktemp("loadtest") / "bundle")


@pytest.fixture(scope="session")
def service(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service over the bundle's own rows."""
    with live_service(bundle.folder, tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="session")
def other_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service over a bundle of other weights."""
    folder = tmp_path_factory.mktemp("other")
    other = build_bundle(folder / "bundle", Recipe(seed=1))
    with live_service(other.folder, folder) as running:
        yield running


@pytest.fixture
def recorded(bundle: Bundle, tmp_path: Path) -> Path:
    """The bundle's goldens as `msd export --replay` writes requests; those that rank are not among them."""
    goldens = [one for one in read_goldens(bundle.path(GOLDENS)) if "top_k" not in one.request]
    lines = [json.dumps({"request": one.request, "expected": one.expected}) for one in goldens]
    path = tmp_path / "replay.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path
