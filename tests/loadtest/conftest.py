"""A real service over a small bundle, requests and the scores that it gives; a small reference model's bundles."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_export.reference.bundles import Bundles, Makings, made_bundles
from model_export.reference.market import Population
from msd.contract.bundle import GOLDENS, Bundle
from msd.contract.golden import read_goldens
from tests.model_export.reference.small import BRIEF, SMALL
from tests.service.live import LiveService, live_service

MAKINGS = Makings(SMALL, BRIEF, Population(users=120, items=0), requests=24, candidates=20)


@pytest.fixture(scope="session")
def service(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service over the bundle's own rows."""
    with live_service(bundle.folder, tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="session")
def other_service(other_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service over a bundle of other weights."""
    with live_service(other_bundle.folder, tmp_path_factory.mktemp("other")) as running:
        yield running


@pytest.fixture
def recorded(bundle: Bundle, tmp_path: Path) -> Path:
    """The bundle's goldens as `msd export --replay` writes requests; those that rank are not among them."""
    goldens = [one for one in read_goldens(bundle.path(GOLDENS)) if "top_k" not in one.request]
    lines = [json.dumps({"request": one.request, "expected": one.expected}) for one in goldens]
    path = tmp_path / "replay.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the bundles of the reference model are kept."""
    return tmp_path_factory.mktemp("bench") / "bundles"


@pytest.fixture(scope="session")
def bundles(work: Path) -> Bundles:
    """A small reference model in fp32 and in the best precision."""
    return made_bundles(work, MAKINGS, lambda doing, done, total: None)
