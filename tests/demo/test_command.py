"""The quick demo is the full one with fewer passes, and says so; a folder is of one of the two."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from msd.demo.command import FULL, QUICK, SUMMARY_FILE, Effort, bundle_steps
from tests.service.live import run_msd

OUT = Path("out")
NUMBERS = {"--epochs", "--lora-steps", "--limit", "--resamples", "--requests"}


def test_quick_and_full_differ_in_numbers_of_passes_alone() -> None:
    assert list(bundle_steps(OUT, replace(QUICK, distill=(), train=(), evaluate=(), export=()))) == list(
        bundle_steps(OUT, FULL)
    )
    for options in (QUICK.distill, QUICK.train, QUICK.evaluate, QUICK.export, QUICK.bench, FULL.bench):
        assert set(options[::2]) <= NUMBERS
        assert all(str(number).isdecimal() for number in options[1::2])


@pytest.mark.parametrize(
    ("effort", "option", "kind"), [(FULL, ["--quick"], "full"), (QUICK, [], "quick")], ids=["quick", "full"]
)
def test_neither_trains_over_the_other(effort: Effort, option: list[str], kind: str, tmp_path: Path) -> None:
    (tmp_path / SUMMARY_FILE).write_text(json.dumps({"warning": effort.warning}))
    done = run_msd("demo", "--out", str(tmp_path), *option)
    assert done.returncode == 2
    assert f"{tmp_path} holds a {kind} demo; name another folder with --out" in done.stderr
    assert [one.name for one in tmp_path.iterdir()] == [SUMMARY_FILE]


def test_a_demo_of_before_there_was_a_quick_one_is_full(tmp_path: Path) -> None:
    (tmp_path / SUMMARY_FILE).write_text("{}")
    assert "holds a full demo" in run_msd("demo", "--out", str(tmp_path), "--quick").stderr
