"""Gives the load generator's thread short time slices, so that it can interrupt others.

On cores shared with the service it would otherwise be late by up to a slice, several milliseconds, when sending and
when seeing replies, which would be counted as the service's latency. On Linux from 6.12; elsewhere a no-op.
"""

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_CALLS = {"x86_64": (314, 315), "aarch64": (274, 275)}
_THIS_THREAD = 0
_SHORT_NS = 100_000


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


@contextmanager
def prompt() -> Iterator[None]:
    """Request short slices for this thread within the block."""
    calls = _CALLS.get(platform.machine()) if sys.platform == "linux" else None
    if calls is None:
        yield
        return
    libc = ctypes.CDLL(None)
    attributes = _Attributes(size=ctypes.sizeof(_Attributes))
    known = libc.syscall(calls[1], _THIS_THREAD, ctypes.byref(attributes), attributes.size, 0) == 0
    before, attributes.runtime = attributes.runtime, _SHORT_NS
    # An unsupported system returns an error that changes nothing.
    changed = known and libc.syscall(calls[0], _THIS_THREAD, ctypes.byref(attributes), 0) == 0
    try:
        yield
    finally:
        if changed:
            attributes.runtime = before
            libc.syscall(calls[0], _THIS_THREAD, ctypes.byref(attributes), 0)
