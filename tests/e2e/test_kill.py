"""A killed training resumes, and ends at the weights of an uninterrupted one."""

import signal
import subprocess
import sys
from pathlib import Path

from msd.dataset.load import load_dataset
from msd.step import STEP_FILE
from msd.training.folder import WEIGHTS_FILE, load_ranker
from tests.dataset.tiny import write_tiny_dataset
from tests.e2e.conftest import ENVIRONMENT
from tests.ranker.brief import TASTE
from tests.ranker.made import write_small_student
from tests.service.live import ROOT, run_msd

# `msd` in a process that kills itself in the first step after a checkpoint.
_KILLED = """
import os, signal, sys
from pathlib import Path
from msd.__main__ import main
from msd.training import train, train_taste

average = train.average_weights

def average_or_die(*arguments):
    if any(Path(sys.argv[1]).glob("**/*.safetensors")):
        os.kill(os.getpid(), signal.SIGKILL)
    average(*arguments)

train.average_weights, train_taste._STEPS = average_or_die, int(sys.argv[2])
main(sys.argv[3:])
"""


def test_killed_training_resumes(tmp_path: Path) -> None:
    dataset = write_tiny_dataset(tmp_path / "dataset", users=20)
    student = tmp_path / "student"
    write_small_student(student, load_dataset(dataset))
    out = tmp_path / "cut"
    line = ("train", dataset, student, out, "--epochs", "2")
    work = out / ".work"
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, work, str(TASTE[1]), *map(str, line)],
        env=ENVIRONMENT,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list(work.glob("**/*.safetensors"))
    assert not (out / STEP_FILE).exists()
    assert not (out / WEIGHTS_FILE).exists()

    again = run_msd(*map(str, line))
    assert again.returncode == 0, again.stderr
    assert "done before" not in again.stdout
    assert not (out / ".work").exists()
    whole = run_msd(*map(str, (*line[:3], tmp_path / "whole", *line[4:])))
    assert whole.returncode == 0, whole.stderr
    assert (out / WEIGHTS_FILE).read_bytes() == (tmp_path / "whole" / WEIGHTS_FILE).read_bytes()
    assert load_ranker(out)[1].curve == load_ranker(tmp_path / "whole")[1].curve
