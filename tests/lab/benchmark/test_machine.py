"""What the record says of the machine: enough to read seconds by."""

import json
import os
from pathlib import Path

import torch

from lab.benchmark.machine import machine, processor


def test_the_machine_is_described() -> None:
    found = machine()
    cores, versions = found["cores"], found["versions"]
    assert isinstance(cores, int)
    assert 1 <= cores <= (os.cpu_count() or 1)
    assert found["cpu"]
    assert isinstance(versions, dict)
    assert versions["torch"] == torch.__version__
    assert set(versions) == {"python", "msd-ctr", "torch", "numpy", "scikit-learn", "polars"}
    assert json.loads(json.dumps(found)) == found


def test_the_processors_name_is_read_where_linux_tells_it(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast One: 3 GHz\nmodel name\t: other\n")
    assert processor(tmp_path / "cpuinfo") == "Fast One: 3 GHz"
    assert processor(tmp_path / "none")
