"""The quick demo is the full one with fewer passes, and warns of it; a folder is of one of the two."""

import json
from pathlib import Path

import pytest

from msd.demo.command import FULL, QUICK, SUMMARY_FILE, WARNING, bundle_steps
from tests.service.live import run_msd

OUT = Path("out")
NUMBERS = {"--epochs", "--lora-steps", "--limit", "--resamples", "--requests"}


def test_quick_and_full_differ_only_in_numbers() -> None:
    for quick, full in zip(bundle_steps(OUT, QUICK), bundle_steps(OUT, FULL), strict=True):
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
