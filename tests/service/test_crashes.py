"""Writers that are killed at random moments leave nothing that is not whole; `make crashes` kills many more."""

import subprocess
import sys

from tests.service.crashes import WRITERS
from tests.service.live import ROOT


def test_killed_writers_leave_whole_things() -> None:
    """In a process of its own, which has no threads when it forks."""
    command = [sys.executable, "-m", "tests.service.crashes", str(2 * len(WRITERS))]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert f"{2 * len(WRITERS)} kills" in ended.stdout
