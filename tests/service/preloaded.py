"""Imports what a service imports until it is ready, for the processes that are forked from this one."""

import gc
import importlib
import os

# As the front door does, and before ONNX Runtime is imported: its telemetry would start a thread, which no fork has.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

for name in (
    "service.process",
    "service.command",
    "operations.check.command",
    # Only while a service starts, so that each would import them again.
    "onnxruntime",
    "pydantic.v1",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
):
    importlib.import_module(name)

# No collection in a forked process goes through these objects, which would also copy their pages.
gc.freeze()
