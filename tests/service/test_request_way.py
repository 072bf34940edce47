"""The way of a plain request through the service, as docs/design.md draws it, is the one that it takes."""

import re
import subprocess
import sys

import pytest

import native
from msd.contract.bundle import Bundle
from tests.service.live import ROOT


@pytest.mark.skipif(native.core is None, reason="the native core is not built")
def test_the_design_draws_the_files_that_a_plain_request_runs(bundle: Bundle) -> None:
    command = [sys.executable, "-m", "tests.service.request_way", str(bundle.folder)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    _, _, found = ended.stdout.partition("the way:\n")
    text = (ROOT / "docs/design.md").read_text("utf-8")
    drawing = text.partition("## One request\n")[2].split("```")[1]

    drawn = re.findall(r"(?:^|\s)\d+ ([a-z_]+/[a-z_]+\.py)", drawing, re.MULTILINE)
    assert set(drawn) == set(found.split())
    assert len(drawn) == len(set(drawn))
