"""For all tests: machines under load are slow, not wrong; nobody is told of them; what is dear is made once."""

import gc
import os
import signal
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from msd.memory import keep_freed_memory

pytest_plugins = ["tests.service.fixtures"]

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

# All that is imported and collected stays: the garbage collector need not go through it, neither now nor in each test.
gc.disable()

# Property tests have no time limit for each example.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# OpenVINO reports every import to its maker, unless the package that it does so with is not there.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

# What a command prints in one line stays one, however long the paths of a test's folders are.
os.environ["COLUMNS"] = "300"

# Services are told of their terminal's end, even where whoever runs the tests is not (nohup).
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# One thread a process: equal runs give equal bits, and tests that run side by side have the cores between them.
os.environ["OMP_NUM_THREADS"] = "1"

# As the front door does, and before anything loads torch.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
keep_freed_memory()

# Tests that share what is dear to make (a trained model, a bundle of it) are run by one process, by that thing's name.
# Those begin first, then the files that take long, then all others, which fill what is left of either's time.
SHARED = {
    "tests/ranker/": "rankers",
    "tests/lab/race/": "races",
    "tests/lab/reference/": "races",
    "tests/model_export/": "exports",
    "tests/lab/bench/": "reference model",
    "tests/lab/naive/": "reference model",
    "tests/lab/benchmark/": "benchmark",
}
LONG = ("tests/e2e/", "tests/lab/chaos/", "tests/service/", "tests/operations/")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Only what comes after it is garbage one day."""
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the order that they begin in."""
    order = (*SHARED, *LONG)
    items.sort(
        key=lambda item: next((place for place, start in enumerate(order) if item.nodeid.startswith(start)), len(order))
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "LoadScopeScheduling":
    """File by file, and what shares something like one file."""
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            shared = (name for start, name in SHARED.items() if nodeid.startswith(start))
            return next(shared, nodeid.split("::", 1)[0])

    config.option.loadscopereorder = False
    return Together(config, log)
