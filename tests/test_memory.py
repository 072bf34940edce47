"""Memory that was freed is used again, without the kernel's help."""

import platform
import resource

import numpy as np
import pytest

from msd.process import keep_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_freed_memory_is_taken_again_without_page_faults() -> None:
    keep_freed_memory()
    size = 16 << 20
    np.ones(size, np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(size, np.uint8)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < size // resource.getpagesize()
