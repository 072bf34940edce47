"""The record of the machine: enough to compare seconds by."""

import json
import os
from pathlib import Path

import torch

from lab.benchmark.machine import machine_now, processor


def test_machine_is_described(tmp_path: Path) -> None:
    found = machine_now()
    assert 1 <= found["cores"] <= (os.cpu_count() or 1)
    assert found["cpu"]
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["onnxruntime"]
    assert found["load"].keys() == {"1_min", "15_min"}
    assert json.loads(json.dumps(found)) is not None

    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast One: 3 GHz\nmodel name\t: other\n")
    assert processor(tmp_path / "cpuinfo") == "Fast One: 3 GHz"
    assert processor(tmp_path / "none")
