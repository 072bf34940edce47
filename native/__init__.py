"""The native core: request bytes to tensors, and scores to reply bytes, in C++ that holds no Python lock.

It is a copy of `msd.contract` for the plainest requests, proved equal to it (`tests/native`). Where it is not built,
was built for something else, or is switched off, Python does all of it: `core` is None, and `REASON` says why.
"""

from importlib import import_module
from types import ModuleType

LAYOUT = 3
"""Rises when what `native/core` expects of Python, or Python of it, changes."""

core: ModuleType | None = None
REASON = ""

try:
    _core = import_module("native._core")
except ImportError as error:
    if error.name == "native._core" and isinstance(error, ModuleNotFoundError):
        REASON = "not built for this interpreter; `python -m native.build` builds it where there is a C++ compiler"
    else:
        REASON = f"it cannot be loaded ({error}); build it again: `python -m native.build`"
else:
    if getattr(_core, "LAYOUT", None) == LAYOUT:
        core = _core
    else:
        REASON = "built for another version of this package; build it again: `python -m native.build`"
