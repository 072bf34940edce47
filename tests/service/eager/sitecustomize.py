"""Loaded by a service under test before anything else: no process of it stands back.

On a busy machine an encoder of the lowest priority would wait for an idle moment longer than any test does.
"""

import os


def _stay(*_: object) -> int:
    return 0


os.nice = _stay
if hasattr(os, "sched_setscheduler"):
    os.sched_setscheduler = _stay  # type: ignore[assignment]
