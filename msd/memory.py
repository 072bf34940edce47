"""Memory settings for training. Knows only the C library."""

import ctypes

# From malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# glibc's maximum for both.
_LARGEST_BLOCK, _MOST_KEPT = 32 << 20, 1 << 30


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next allocation; other C libraries are left as they are.

    Each step of training frees the same tens of MB and asks for them again. By default they go back to the kernel each
    time, and every page of them then costs a fault: a quarter of the time of a step on a virtual machine.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
        mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
