"""What a thread does that others are not to wait for. It should hold Python's lock for moments only: while it holds the
lock and has no core, all other threads of its process wait."""

import os
import sys
import threading
import time
from contextlib import suppress

_NICENESS = 10


def give_way() -> None:
    """Lets the calling thread alone, for the rest of its life, have what other threads leave; on Linux."""
    if sys.platform == "linux":
        with suppress(OSError):
            here = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, here, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, here)))


def let_others_run() -> None:
    """Lets go of Python's lock for a moment: who waits for it need not wait for the next forced switch, 5 ms later."""
    time.sleep(0)
