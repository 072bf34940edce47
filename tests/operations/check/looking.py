"""What tests of `msd check` share: settings, the command's findings, and looks at them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from operations.check.findings import Finding, Level
from service.settings import Settings
from tests.service.live import run_msd


def settings_of(bundle: Path, **given: object) -> Settings:
    """Settings over a bundle, as an environment gives them."""
    return Settings.from_environ(
        {"MSD_BUNDLE": str(bundle), **{f"MSD_{name.upper()}": str(value) for name, value in given.items()}}
    )


def finding(findings: Sequence[Finding], level: Level, what: str) -> Finding:
    """The finding of a level that says something; what is not in order has a reason and a mending."""
    found = [one for one in findings if one.level == level and what in one.what]
    assert found, [f"{one.level}: {one.what}" for one in findings]
    assert level == "ok" or (found[0].why and found[0].mend)
    return found[0]


def levels(findings: Sequence[Finding]) -> set[str]:
    return {finding.level for finding in findings}


def check(*arguments: str, **environment: str) -> tuple[int, dict[str, Any]]:
    """The command's exit code and its findings."""
    ended = run_msd("check", "--json", *arguments, **environment)
    assert "Traceback" not in ended.stderr
    assert ended.stdout, ended.stderr
    document: dict[str, Any] = json.loads(ended.stdout)
    return ended.returncode, document
