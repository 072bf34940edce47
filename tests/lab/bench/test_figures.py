"""Limits of latency, and the record of the machine."""

import json
import math
import os
from pathlib import Path

import pytest
import torch

from lab.bench.figures import latency_limit
from lab.benchmark.machine import machine_now, processor


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_one_server_waits_by_the_law_of_its_queue(load: float) -> None:
    # Of M/D/1, P(wait ≤ t) = (1 − ρ) exp(ρ t) while t < 1.
    for wait in (0.25, 0.5, 0.75):
        assert latency_limit(1, load, 100 * (1 - load) * math.exp(load * wait)) == pytest.approx(1 + wait, abs=0.02)


def test_more_servers_with_one_queue_wait_less() -> None:
    tails = [latency_limit(servers, 0.7, 99) for servers in (1, 2, 4, 16)]
    assert tails == sorted(tails, reverse=True)
    assert tails[-1] > 1.0
    assert latency_limit(2, 0.001, 50) == latency_limit(2, 0.001, 99) == 1.0


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
