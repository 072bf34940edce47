"""The environment of every test process. It is set here, before numpy, torch and onnxruntime are first imported."""

import os

from msd.process import keep_freed_memory

# One thread per process: equal runs give equal bits, and test processes share the cores.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
# Set by the front door, too: its telemetry would start a thread, which no forked process has.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
keep_freed_memory()
