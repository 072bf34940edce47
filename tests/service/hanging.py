"""Signals that make a service's main thread, so its event loop, hang.

IN_PYTHON: where signals are still handled. IN_C: where they are not. WITH_LOCK: in C with Python's lock held, so that
no thread runs any Python.
"""

import ctypes
import signal
import time

IN_PYTHON, IN_C, WITH_LOCK = signal.SIGUSR1, signal.SIGALRM, signal.SIGUSR2
_lock = ctypes.create_string_buffer(256)  # zeroes are an unlocked mutex


def _hang(*_: object) -> None:
    while True:
        time.sleep(3_600)


def _deadlock(number: int, _: object) -> None:
    library = (ctypes.PyDLL if number == WITH_LOCK else ctypes.CDLL)(None)
    library.pthread_mutex_lock(_lock)
    library.pthread_mutex_lock(_lock)


def hang_on_signals() -> None:
    """Has this process, which is the service, obey them."""
    signal.signal(IN_PYTHON, _hang)
    signal.signal(IN_C, _deadlock)
    signal.signal(WITH_LOCK, _deadlock)
