"""What pages tell people to type exists: commands, their flags, make's targets, settings; and JSON is JSON."""

import ast
import json
import re
import shlex
from collections import defaultdict

import pytest

from msd.__main__ import COMMANDS, main
from service.settings import Settings
from tests.docs.pages import PAGES, ROOT, Block, blocks

_COMMAND = re.compile(r"(?:^|[\s/])msd (?P<name>data [a-z-]+|[a-z]+)(?P<rest>[^\n]*)")
# Read by no settings of the service: who asks sets them.
_FORMS = {"bench": (["--graph"], ["BUNDLE"])}
"""By what a command has other forms, each with a help of its own."""
_OTHER_VARIABLES = {"MSD_TEACHER_API_KEY", "MSD_ADMIN_PASSWORD"}


def test_json_is_json() -> None:
    bad = []
    for block in blocks("json"):
        try:
            json.loads(block.text)
        except ValueError as error:
            bad.append(f"{block}: {error}")

    assert not bad


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_is_python(block: Block) -> None:
    ast.parse(block.text)


def flags_shown() -> dict[str, set[str]]:
    """The long flags that pages give each command."""
    shown: defaultdict[str, set[str]] = defaultdict(set)
    for block in blocks("sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            for found in _COMMAND.finditer(line.partition("  #")[0]):
                words = re.split(r"[\s=]", found["rest"].partition("&&")[0].partition("|")[0])
                shown[found["name"]] |= {word for word in words if re.fullmatch(r"--[a-z][a-z0-9-]+", word)}
    return dict(shown)


@pytest.mark.parametrize("name", sorted(flags_shown()))
def test_commands_and_their_flags_exist(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = flags_shown()[name]
    monkeypatch.setenv("COLUMNS", "200")

    for form in ([], *_FORMS.get(name, ())):
        with pytest.raises(SystemExit):
            main([*name.split(), *form, "--help"])
    told = capsys.readouterr().out

    assert not {flag for flag in flags - {"--graph"} if flag not in told}
    assert name.split()[0] in COMMANDS


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    told = {word for page in PAGES for word in re.findall(r"`make ([a-z-]+)", page.read_text("utf-8"))}
    told |= {word for block in blocks("sh") for word in re.findall(r"^make ([a-z-]+)", block.text, re.M)}

    assert told <= targets
    assert {"demo", "test"} <= told


def test_settings_exist() -> None:
    known = {f"MSD_{name.upper()}" for name in Settings.model_fields} | _OTHER_VARIABLES
    told = {word for page in PAGES for word in re.findall(r"\bMSD_[A-Z_]*[A-Z]\b", page.read_text("utf-8"))}

    assert told <= known


def test_shell_is_shell() -> None:
    """Quotes that are opened are closed: what is copied runs, or says why not."""
    for block in blocks("sh"):
        assert shlex.split(block.text, comments=True), block
