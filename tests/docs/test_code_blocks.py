"""What pages tell people to type is right: the commands' own parsers take each line, make has its targets, the service
its settings, and the contract its requests.

Lines are parsed rather than run where they take minutes or need a cluster; the pages of the API, the client and a
newcomer's own data have tests that run them.
"""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from pydantic import BaseModel

from msd.commands import load
from msd.contract.request import ScoreRequest
from service.routes.events_route import EventBatch
from service.settings import Settings
from tests.docs.pages import PAGES, ROOT, Block, blocks

_COMMAND = re.compile(r"(?:^|[\s/])msd (?P<words>[a-z]+\b[^\n]*)")
_AS_BEFORE = "…"
_BODY = re.compile(r"/v1/(?P<route>score|events)\b.*? -d '(?P<json>[^']*)'", re.S)
# Read by no settings of the service: who asks sets them.
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


def commands_shown() -> Iterator[tuple[Block, list[str]]]:
    """Each use of `msd` in a block, up to the next command of the shell's line."""
    for block in blocks("sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            for found in _COMMAND.finditer(line.partition("  #")[0]):
                (words, *_) = re.split(r"\s(?:&&|\||>|&)(?:\s|$)", found["words"])
                yield block, [word for word in shlex.split(words, comments=True) if word != _AS_BEFORE]


def parse(name: str, *words: str) -> None:
    """Has a command parse its line. Raises what it would tell the user."""
    rest = list(words)
    command = typer.main.get_command(load(name, *rest))
    if name == "lab":
        del rest[0]
    if subcommands := getattr(command, "commands", None):
        command = subcommands[rest.pop(0)]
    command.make_context(name, rest)


def test_commands_are_taken_by_their_parsers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown, refused = list(commands_shown()), []
    for block, words in shown:
        try:
            parse(*words)
        except Exception as error:
            refused.append(f"{block}: msd {shlex.join(words)}: {error}")

    assert len(shown) > 50
    assert not refused


@pytest.mark.parametrize(
    "line", ["trian data model", "train data", "train data model --sede 1", "train data m --seed x"]
)
def test_wrong_command_is_found(line: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no command|missing|no such|should be"):
        parse(*line.split())


def test_requests_are_taken_by_the_contract() -> None:
    models: dict[str, type[BaseModel]] = {"score": ScoreRequest, "events": EventBatch}
    # The API's page has wrong ones too, and a test of its own.
    asked = [block for block in blocks("sh") if block.page.name != "api.md"]
    shown = [(block, found) for block in asked for found in _BODY.finditer(block.text)]
    pages = {block.page.name for block, _ in shown}

    for _, found in shown:
        models[found["route"]].model_validate_json(found["json"])
    assert {"README.md", "start.md", "own-data.md", "playground.md", "live-state.md"} <= pages


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    pages = "\n".join(page.read_text("utf-8") for page in PAGES if page.name != "CHANGELOG.md")
    named = set(re.findall(r"(?:`|^)make ([a-z0-9-]+)", pages, re.M))

    assert named <= targets
    assert {"demo", "test"} <= named


def test_settings_exist() -> None:
    known = {f"MSD_{name.upper()}" for name in Settings.model_fields} | _OTHER_VARIABLES
    for page in PAGES:
        if page.name != "CHANGELOG.md" and page.parent.name != "decisions":
            named = set(re.findall(r"\bMSD_[A-Z_]*[A-Z]\b", page.read_text("utf-8")))
            assert named <= known, page


def test_shell_is_shell() -> None:
    """Quotes that are opened are closed: what is copied runs, or says why not."""
    for block in blocks("sh"):
        assert shlex.split(block.text, comments=True), block
