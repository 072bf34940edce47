"""The native core, in C++ without Python's lock: what a request means, from its bytes to tensors, and from scores to
the reply's bytes; the encoding of values, the fold of events, and the way to ONNX Runtime.

Tests hold it to `tests/reference` and to a corpus of requests. If it is not built, or is of another version, `core` is
None, `REASON` says why, and nothing is trained or served.
"""

from importlib import import_module
from types import ModuleType

LAYOUT = 38
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
