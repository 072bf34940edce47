"""Reference pages written from code: docs/settings.md from the service's settings, docs/cli.md from the commands' help,
docs/dataset-toml.md from the dataset's configuration, docs/leaderboard.md from the kept results of benchmarks; and
tests/docs/mistakes.txt from the commands' messages.

`python -m tests.docs.generated` writes them; tests hold the pages to it.
"""

import json
import re
from pathlib import Path
from typing import Any, get_args, get_origin

import typer
import typer.main
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from msd.commands import COMMANDS, load
from msd.dataset.config import DatasetConfig
from msd.feedback.judge_command import app as judge_app
from operations.replay.log import app as log_replay_app
from service.settings import PREFIX, Settings
from tests.docs.leaderboard import leaderboard_lines
from tests.docs.mistakes import page_rows
from tests.docs.pages import ROOT

SETTINGS, CLI, DATASET, LEADERBOARD = (
    ROOT / "docs" / f"{name}.md" for name in ("settings", "cli", "dataset-toml", "leaderboard")
)
MISTAKES = ROOT / "tests" / "docs" / "mistakes.txt"
_TABLE = re.compile(r"(?<=<!-- begin generated -->\n).*(?=<!-- end generated -->\n)", re.DOTALL)


def main() -> None:
    """Write all pages."""
    made = {
        SETTINGS: settings_page,
        CLI: cli_page,
        MISTAKES: mistakes_page,
        DATASET: dataset_page,
        LEADERBOARD: leaderboard_page,
    }
    for page, text in made.items():
        page.write_text(text(), "utf-8")


def settings_page() -> str:
    """docs/settings.md with a row for each setting, in the order of the class."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        meaning = " ".join((field.description or "").split())
        lines.append(f"| `{PREFIX}{name.upper()}` | {setting_default(name)} | {meaning} |")
    return _replaced(SETTINGS, lines)


def setting_default(name: str) -> str:
    """A setting's default as an environment has it."""
    field = Settings.model_fields[name]
    if name == "workers":
        return "`auto`"
    if field.is_required() or field.default is None:
        return "–"
    if isinstance(field.default, bool):
        is_switch = any(isinstance(rule, BeforeValidator) for rule in field.metadata)
        return f"`{('on' if field.default else 'off') if is_switch else str(field.default).lower()}`"
    return f"{field.default:g}" if isinstance(field.default, float) else f"`{field.default}`"


def cli_page() -> str:
    """docs/cli.md with each command's help: what it does, its arguments and its options."""
    lines: list[str] = []
    for title, app in _apps():
        command: Any = typer.main.get_command(app)
        for name, subcommand in sorted(getattr(command, "commands", {"": command}).items()):
            lines += _command(f"{title} {name}".strip(), subcommand)
    return _replaced(CLI, lines[1:])


def dataset_page() -> str:
    """docs/dataset-toml.md with each section of dataset.toml and its keys."""
    lines: list[str] = []
    sections: dict[str, type[BaseModel]] = {"": DatasetConfig}
    for name, field in DatasetConfig.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        if found := next((one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)), None):
            sections[f"[[{name}]]" if get_origin(field.annotation) is list else f"[{name}]"] = found
    for title, section in sections.items():
        rows = [
            f"| `{key}` | {_toml_default(field)} | {_cell(field.description)} |"
            for key, field in section.model_fields.items()
            if field.description
        ]
        heading = ["", f"## {title}", "", " ".join((section.__doc__ or "").split())] if title else []
        lines += [*heading, "", "| key | default | meaning |", "|---|---|---|", *rows]
    return _replaced(DATASET, lines[1:])


def _toml_default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return "–" if field.default in (None, "", {}) else f"`{_cell(json.dumps(field.default))}`"


def mistakes_page() -> str:
    """tests/docs/mistakes.txt with the message about each mistake; runs the commands."""
    lines: list[str] = []
    for group, rows in page_rows().items():
        lines += ["", group, *rows]
    return "\n".join(lines[1:]) + "\n"


def leaderboard_page() -> str:
    """docs/leaderboard.md with a table for each delay of feedback of each benchmark."""
    return _replaced(LEADERBOARD, leaderboard_lines())


def _apps() -> list[tuple[str, typer.Typer]]:
    """All commands that ship; those that take several forms once per form."""
    forms = {
        "replay": [("replay FILE", load("replay")), ("replay LOG", log_replay_app)],
        "evaluate": [("evaluate DATASET", load("evaluate")), ("evaluate LOG", judge_app)],
    }
    return [form for name in COMMANDS for form in forms.get(name) or [(name, load(name))]]


def _command(title: str, command: Any) -> list[str]:  # noqa: ANN401 - of Typer's own kinds
    about = " ".join((command.help or "").split())
    lines = ["", f"## msd {title}", "", about, ""]
    for parameter in command.params:
        if parameter.name == "help" or getattr(parameter, "hidden", False):
            continue
        is_option = parameter.param_type_name == "option"
        names = ", ".join(f"`{option}`" for option in [*parameter.opts, *parameter.secondary_opts])
        shown = (
            f"{names}{f' {parameter.metavar}' if parameter.metavar else ''}"
            if is_option
            else f"`{parameter.metavar or parameter.name}`"
        )
        lines.append(f"- {shown}{_default(parameter)}: {' '.join((parameter.help or '').split())}")
    return lines


def _default(parameter: Any) -> str:  # noqa: ANN401 - as above
    if parameter.required:
        return " (required)"
    default = getattr(parameter.default, "value", parameter.default)
    if default is None or default is False or default in ("", [], ()):
        return ""
    return " (on)" if default is True else f" (`{default:g}`)" if isinstance(default, float) else f" (`{default}`)"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _replaced(page: Path, lines: list[str]) -> str:
    return _TABLE.sub(lambda _: "\n".join(lines) + "\n", page.read_text("utf-8"))


if __name__ == "__main__":
    main()
