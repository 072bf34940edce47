"""A short session of load on a real service: its figures add up, and its page has the last session beside it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.session.command import last_session
from loadtest.session.page import compared, load_page
from msd.__main__ import main
from msd.contract.bundle import Bundle
from tests.service.live import ROOT, LiveService


def test_session_is_written_with_its_page(service: LiveService, bundle: Bundle, tmp_path: Path) -> None:
    asked = ["--url", service.url, "--candidates", "20:3,30:1", "--seconds", "0.5"]
    with pytest.raises(SystemExit, match="0"):
        main(["load", str(bundle.folder), *asked, "--out", str(tmp_path)])
    session = json.loads((tmp_path / "load.json").read_text())
    page = (tmp_path / "load.html").read_text("utf-8")

    assert session["capacity"] > 0
    assert [point["load"] for point in session["curve"]] == [0.2, 0.4, 0.6, 0.8, 1.0, 1.5]
    assert all(sum(point["statuses"].values()) == point["offered"] for point in [*session["curve"], session["bursts"]])
    assert session["rest"]["p50_ms"] <= session["rest"]["p99_ms"]
    assert set(session["rest"]["stages_ms"]) == {"parse", "rows", "queue", "run", "reply", "http", "wire"}
    assert session["model"] == {
        "model_version": bundle.manifest.model_version,
        "precision": "fp32",
        "runtime": "onnxruntime",
        "store": "file",
    }
    assert page.count("<svg") == 2
    assert "now ÷ then" not in page
    assert not re.search(r'(src|href)="https?:', page)

    page = load_page(session | {"at": "later"}, session)
    assert "now ÷ then" in page
    assert session["at"] in page
    assert '<td class="n">1.00</td>' in page


@pytest.mark.parametrize("content", [None, "", "[]", "{", '{"format": 0, "traffic": 1}', '{"format": 1, "traffic": 2}'])
def test_compares_only_sessions_on_the_same_traffic(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "load.json").write_text(content)

    assert last_session(tmp_path / "load.json", {"format": 1, "traffic": 1}) is None
    (tmp_path / "load.json").write_text('{"format": 1, "traffic": 1, "capacity": 3}')
    assert last_session(tmp_path / "load.json", {"format": 1, "traffic": 1}) is not None


def test_compares_figures_with_the_previous_session() -> None:
    def session(capacity: float) -> dict[str, object]:
        point = {"load": 0.5, "p99_ms": 4.0 * capacity}
        return {
            "capacity": capacity,
            "rest": {"p50_ms": 1.0, "p99_ms": 2.0},
            "curve": [point, {"load": 1.5, "p99_ms": None}],
            "bursts": {"p99_ms": 3.0},
        }

    assert compared(session(100.0), session(50.0)) == [
        ("requests a second at capacity", 100.0, 50.0),
        ("p50 at rest, ms", 1.0, 1.0),
        ("p99 at rest, ms", 2.0, 2.0),
        ("p99 at 50% of capacity, ms", 400.0, 200.0),
        ("p99 in bursts, ms", 3.0, 3.0),
    ]
    assert [last for _, _, last in compared(session(1.0), None)] == [None] * 5


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
        timeout=300,
        check=False,
    )


def test_users_send_scoring_requests(bundle: Bundle, service: LiveService, tmp_path: Path) -> None:
    done = run_locust(service, tmp_path, LOADTEST_BUNDLE=str(bundle.folder))
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads(done.stdout)
    assert (entry["name"], entry["method"]) == ("/v1/score", "POST")
    assert entry["num_requests"] > 0
    assert entry["num_failures"] == 0


def test_invalid_settings_end_locust_with_a_message(service: LiveService, tmp_path: Path) -> None:
    done = run_locust(service, tmp_path, LOADTEST_BUNDLE="/nowhere")
    assert done.returncode == 1
    assert "set LOADTEST_BUNDLE to a bundle's folder and LOADTEST_CANDIDATES to numbers of candidates: " in done.stderr
    assert "/nowhere: no bundle here" in done.stderr
    assert "Traceback" not in done.stderr
