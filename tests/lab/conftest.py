"""Bundles of a small reference model; the laboratory's services are forked, as in all tests."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.reference.bundles import Bundles, Makings, made_bundles
from lab.reference.market import Population
from loadtest import processes
from msd.demo import service
from operations.publish import publish
from tests.lab.reference.small import SMALL
from tests.service.forked import ForkedProcess

MAKINGS = Makings(SMALL, 0, Population(users=120, items=500), requests=24, candidates=20)


@pytest.fixture(scope="module", autouse=True)
def _forked_services() -> Iterator[None]:
    """Services of the laboratory are forked, as in all tests, and bundles published in this process; what
    is started with a library preloaded is not."""
    forking = SimpleNamespace(**{**vars(subprocess), "Popen": _start})
    with pytest.MonkeyPatch.context() as patch:
        for module in (processes, service):
            patch.setattr(module, "subprocess", forking)
        patch.setattr(processes, "msd_output", _msd_output)
        yield


def _msd_output(command: str, *arguments: str, run: Callable[..., str] = processes.msd_output) -> str:
    if command != "publish" or "--delta" in arguments:
        return run(command, *arguments)
    bundle, option, redis = arguments
    assert option == "--redis"
    publish(Path(bundle), redis, lambda *_: None)
    return ""


def _start(command: list[str], **options: Any) -> ForkedProcess | subprocess.Popen[Any]:  # noqa: ANN401 - Popen's
    if command[:4] != [sys.executable, "-m", "msd", "serve"] or "LD_PRELOAD" in options["env"]:
        return subprocess.Popen(command, **options)
    log = Path(options["stdout"].name)
    return ForkedProcess(command[3:], options["env"], Path.cwd(), log, log, prepare=os.setpgrp)


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the bundles of the reference model are kept."""
    return tmp_path_factory.mktemp("bench") / "bundles"


@pytest.fixture(scope="session")
def bundles(work: Path) -> Bundles:
    """A small reference model in fp32 and in the best precision."""
    return made_bundles(work, MAKINGS, lambda *_: None)
