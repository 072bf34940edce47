"""The native core, in C++ without Python's lock: what a request means, from its bytes to tensors, and from scores to
the reply's bytes; the encoding of values, the fold of events, and the way to ONNX Runtime.

Tests hold it to `tests/reference` and to a corpus of requests. If it is not built, or is of another version, `core` is
None, `REASON` says why, and nothing is trained or served.
"""

__all__ = ["INSTRUCTIONS", "LAYOUT", "REASON", "core"]

LAYOUT = 44
"""Version of the interface between `native/core` and Python; increment it with each change."""

REASON = ""

try:
    import native._core as core  # its types are in `_core.pyi`, which the build writes
except ImportError as error:
    core = None  # type: ignore[assignment]  # what needs it is checked as if it were there
    if error.name == "native._core" and isinstance(error, ModuleNotFoundError):
        REASON = "not built for this interpreter; `python -m native.build` builds it"
    else:
        REASON = f"it cannot be loaded ({error}); build it again: `python -m native.build`"
else:
    if getattr(core, "LAYOUT", None) != LAYOUT:
        core = None  # type: ignore[assignment]
        REASON = "built for another version of this package; build it again: `python -m native.build`"

INSTRUCTIONS = "" if core is None else str(core.INSTRUCTIONS)
"""CPU instructions that the core uses."""
