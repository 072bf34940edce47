"""The native core: request bytes to tensors, and scores to reply bytes, in C++ that holds no Python lock.

It is a copy of `msd.contract` for the plainest requests, proved equal to it (`tests/native`). Where it is not built,
was built for something else, or is switched off, Python does all of it: `core` is None, and `REASON` says why.
"""

from types import ModuleType

LAYOUT = 2
"""Rises when what `native/core` expects of Python, or Python of it, changes."""

core: ModuleType | None = None
REASON = ""

try:
    from native import _core  # type: ignore[attr-defined]
except ImportError as error:
    REASON = f"not built for this interpreter ({error}); `python -m native.build` builds it where there is a compiler"
else:
    if getattr(_core, "LAYOUT", None) == LAYOUT:
        core = _core
    else:
        REASON = "built for another version of this package; build it again: `python -m native.build`"
