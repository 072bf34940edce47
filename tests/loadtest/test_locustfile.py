"""The Locust users run headless against a real service, and none of their requests fails."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.locust_settings import LocustSettings, users_at
from msd.contract.bundle import Bundle
from msd.contract.errors import MsdError
from tests.service.live import ROOT, LiveService


def run_locust(service: LiveService, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Two users for two seconds; `folder` is where Locust may leave files."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py"), "--headless"),
            *("--host", service.url, "--users", "2", "--spawn-rate", "2", "--run-time", "2s", "--stop-timeout", "5"),
            *("--json", "--exit-code-on-error", "1"),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LOADTEST_CANDIDATES": "20:3,30:1", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "settings", [{}, {"LOADTEST_COLD": "0.3", "LOADTEST_DEADLINE_MS": "5000", "LOADTEST_SHAPE": "bursts"}]
)
def test_users_send_scoring_requests(
    bundle: Bundle, service: LiveService, tmp_path: Path, settings: dict[str, str]
) -> None:
    done = run_locust(service, tmp_path, LOADTEST_BUNDLE=str(bundle.folder), **settings)
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads(done.stdout)
    assert (entry["name"], entry["method"]) == ("/v1/score", "POST")
    assert entry["num_requests"] > 0
    assert entry["num_failures"] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "no bundle here"),
        ({"LOADTEST_BUNDLE": "/nowhere"}, "/nowhere: no bundle here"),
        ({"LOADTEST_CANDIDATES": "many"}, "'many'"),
        ({"LOADTEST_COLD": "2"}, "LOADTEST_COLD=2: has to be a number from 0 to 1"),
        ({"LOADTEST_DEADLINE_MS": "soon"}, "LOADTEST_DEADLINE_MS=soon: has to be a number from 0 to 1e+06"),
        ({"LOADTEST_SHAPE": "waves"}, "LOADTEST_SHAPE=waves: has to be bursts or steps"),
        ({"LOADTEST_ROUTE": "grpc"}, "LOADTEST_ROUTE=grpc: has to be score, openrtb"),
        ({"LOADTEST_ROUTE": "openrtb", "LOADTEST_COLD": "0.5"}, "LOADTEST_COLD=0.5: BidRequests take no texts of ads"),
        ({"LOADTEST_ROUTE": "openrtb", "LOADTEST_BUNDLE": "{bundle}"}, "maps no BidRequests"),
    ],
)
def test_rejects_invalid_settings(bundle: Bundle, settings: dict[str, str], message: str) -> None:
    given = {name: value.format(bundle=bundle.folder) for name, value in settings.items()}
    with pytest.raises(MsdError, match=re.escape(message)):
        LocustSettings.from_environ(given).traffic(0)


def test_invalid_settings_end_locust_with_a_message(service: LiveService, tmp_path: Path) -> None:
    done = run_locust(service, tmp_path, LOADTEST_COLD="2")
    assert done.returncode == 1
    assert "set LOADTEST_BUNDLE to a bundle's folder and LOADTEST_CANDIDATES to numbers of candidates: " in done.stderr
    assert "LOADTEST_COLD=2: has to be a number from 0 to 1" in done.stderr
    assert "Traceback" not in done.stderr


def test_shapes_set_the_number_of_users() -> None:
    found = [users_at(shape, time) for shape in ("bursts", "steps") for time in (0, 15, 16, 19.9, 20, 41)]
    assert found == [5, 5, 40, 40, 5, 5, 5, 5, 5, 5, 10, 15]
