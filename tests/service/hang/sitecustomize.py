"""Loaded by a service under test before anything else: a signal makes its main thread, so its event loop, hang.

SIGUSR1: in Python, where signals are still handled. SIGALRM: in C, where they are not. SIGUSR2: in C with Python's lock
held, so that no thread runs any Python.
"""

import ctypes
import signal
import time

_lock = ctypes.create_string_buffer(256)  # zeroes are an unlocked mutex


def _hang(*_: object) -> None:
    while True:
        time.sleep(3_600)


def _deadlock(number: int, _: object) -> None:
    library = (ctypes.PyDLL if number == signal.SIGUSR2 else ctypes.CDLL)(None)
    library.pthread_mutex_lock(_lock)
    library.pthread_mutex_lock(_lock)


signal.signal(signal.SIGUSR1, _hang)
signal.signal(signal.SIGUSR2, _deadlock)
signal.signal(signal.SIGALRM, _deadlock)
