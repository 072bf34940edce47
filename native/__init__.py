"""The native core: request bytes to tensors, and scores to reply bytes, in C++ without Python's lock.

A copy of `msd.contract`, tested to be equal (`tests/native`), the fold of whole logs, and the way to ONNX Runtime. If
it is not built, or is of another version, `core` is None, `REASON` says why, and nothing is trained or served.
"""

from importlib import import_module
from types import ModuleType

LAYOUT = 36
"""Version of the interface between `native/core` and Python; increment it with each change."""

core: ModuleType | None = None
REASON = ""

try:
    _core = import_module("native._core")
except ImportError as error:
    if error.name == "native._core" and isinstance(error, ModuleNotFoundError):
        REASON = "not built for this interpreter; `python -m native.build` builds it"
    else:
        REASON = f"it cannot be loaded ({error}); build it again: `python -m native.build`"
else:
    if getattr(_core, "LAYOUT", None) == LAYOUT:
        core = _core
    else:
        REASON = "built for another version of this package; build it again: `python -m native.build`"

INSTRUCTIONS = "" if core is None else str(core.INSTRUCTIONS)
"""CPU instructions that the core uses."""
