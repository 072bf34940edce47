"""Loaded by a service under test before anything else: SIGUSR1 makes its event loop hang for good."""

import signal
import time


def _hang(*_: object) -> None:
    while True:
        time.sleep(3_600)


signal.signal(signal.SIGUSR1, _hang)
