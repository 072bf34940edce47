"""A step that fails ends the demo with its command; a service that does not start, with its log."""

import io
import json
import os
import signal
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from msd.demo.movielens import FULL, QUICK, SUMMARY_FILE, WARNING, bundle_steps
from msd.demo.service import DemoError, Line, serve
from msd.demo.steps import Step, Steps
from msd.free_port import free_port
from tests.bundles.factory import build_bundle
from tests.scripted_server import HANG, ScriptedServer, scripted_server
from tests.service.live import run_msd


def test_steps_are_counted_timed_and_named_with_their_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = io.StringIO()
    steps = Steps(Console(file=out, width=200), 2)
    assert "Usage: msd " in steps.read("help", "--help")
    assert capfd.readouterr().out == ""
    steps.run("more help", "--help")
    assert "Usage: msd " in capfd.readouterr().out
    assert list(steps.seconds) == ["help", "more help"]
    assert all(seconds > 0 for seconds in steps.seconds.values())
    assert "1/2 help" in out.getvalue()
    assert "2/2 more help  msd --help" in out.getvalue()
    file = tmp_path / "no such file"
    for way in (steps.run, steps.read):
        with pytest.raises(DemoError) as failed:
            way("again", "replay", file)
        assert str(failed.value) == f"`msd replay '{file}'` ended with exit code 2; its output is above"
        assert "No such file or directory" in capfd.readouterr().err
    assert "again: " not in out.getvalue()


def test_interrupt_ends_more_than_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUNDLE_TOKEN", "t")
    digest = f"--digest=sha256:{'0' * 64}"

    def interrupt(server: ScriptedServer) -> None:
        while not server.heads:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    # Processes that share out tests ignore interrupts.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with scripted_server(HANG) as server, ThreadPoolExecutor(1) as thread:
            thread.submit(interrupt, server)
            with pytest.raises(SystemExit) as ended:
                Steps(Console(file=io.StringIO()), 1).call("fetch", "fetch", server.url, tmp_path / "bundle", digest)
    finally:
        signal.signal(signal.SIGINT, ignored)
    assert ended.value.code == 130


def test_concurrent_steps_are_shown_in_order(capfd: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    steps = Steps(Console(file=out, width=200), 3)
    steps.run_both([("help", ("--help",)), ("more", ("replay", "--help"))], ("last", ("bench", "--help")))
    assert "Usage: msd " in capfd.readouterr().out
    first, _, second = out.getvalue().partition("2/3 more  msd replay --help")
    assert "1/3 help  msd --help" in first
    assert second.index("3/3 last  msd bench --help") < second.index("msd bench [OPTIONS]")
    assert list(steps.seconds) == ["help", "more", "last"]


@pytest.mark.parametrize("fails", [0, 1])
def test_failed_concurrent_step_is_named(fails: int, tmp_path: Path) -> None:
    out = io.StringIO()
    steps = Steps(Console(file=out, width=200), 2)
    lines: list[tuple[str, tuple[str | Path, ...]]] = [("fine", ("--help",)), ("again", ("replay", tmp_path / "none"))]
    with pytest.raises(DemoError, match=r"`msd replay .*/none` ended with exit code 2; its output is above"):
        steps.run_both([lines[1 - fails]], lines[fails])
    assert ("No such file or directory" in out.getvalue()) == (fails == 1)


def test_service_runs_during_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSD_DRAIN_SECONDS", "0")
    # A proxy is for other machines.
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    bundle = build_bundle(tmp_path / "bundle")
    log = tmp_path / "logs" / "service.log"
    with serve(bundle.folder, log) as (url, _):
        assert httpx.get(f"{url}/health/ready", trust_env=False).json()["ready"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health/ready", trust_env=False)
    assert "listening" in log.read_text()


def test_log_of_service_that_does_not_start_is_shown(tmp_path: Path) -> None:
    with (
        pytest.raises(DemoError, match=r"(?s)the service ended with exit code \d; its log: .*no bundle here"),
        serve(tmp_path / "nowhere", tmp_path / "service.log"),
    ):
        pytest.fail("there is nothing to serve")


OUT = Path("out")
NUMBERS = {"--epochs", "--resamples", "--requests"}


def _lines(options: Mapping[str, Line], network: str = "msd") -> list[Step]:
    pairs = bundle_steps(OUT, options, network)
    return [step for pair in pairs for step in (*pair[0], *filter(None, pair[1:]))]


def test_demo_of_the_papers_network_goes_on_with_its_student() -> None:
    lines, own = dict(_lines(FULL, "paper")), OUT / "models/with-semantics/student"
    assert lines["train"][-2:] == ("--network", "paper")
    assert "--no-users" not in lines["distill"]
    assert (lines["evaluate"][2], lines["export"][3]) == (own, own)


def test_quick_and_full_differ_only_in_numbers() -> None:
    quick, full = (_lines(of) for of in (QUICK, FULL))
    for (name, line), (other, shorter) in zip(quick, full, strict=True):
        assert (name, line) == (other, (*shorter, *QUICK.get(str(line[0]), ())))
    for options in (*QUICK.values(), *FULL.values()):
        assert set(options[::2]) <= NUMBERS
        assert all(str(number).isdecimal() for number in options[1::2])


@pytest.mark.parametrize(
    ("known", "option", "kind"),
    [({"warning": ""}, ["--quick"], "full"), ({}, ["--quick"], "full"), ({"warning": WARNING}, [], "quick")],
    ids=["quick", "quick over an old release", "full"],
)
def test_rejects_folder_of_the_other_kind(known: object, option: list[str], kind: str, tmp_path: Path) -> None:
    (tmp_path / SUMMARY_FILE).write_text(json.dumps(known))
    done = run_msd("demo", "--out", str(tmp_path), *option)
    assert done.returncode == 2
    assert f"{tmp_path} holds a {kind} demo; name another folder with --out" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [SUMMARY_FILE]
