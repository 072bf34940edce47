"""For all tests: machines under load are slow, not wrong; and nobody is told of them."""

import os
import sys

from hypothesis import settings

# Property tests have no time limit for each example.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# OpenVINO reports every import to its maker, unless the package that it does so with is not there.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

# What a command prints in one line stays one, however long the paths of a test's folders are.
os.environ["COLUMNS"] = "300"

# Tests that run side by side have the cores between them.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# As the front door does, and before anything loads torch.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
