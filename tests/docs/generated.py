"""What pages have that code says: a line `<!-- generated: NAME -->` of a page becomes the commands' help, the service's
settings or metrics, or the kept results of benchmarks when the site is built (mkdocs.yml names this file as a hook).

`python -m tests.docs.generated` writes what is kept: docs/dataset-toml.md, which no command says, and
tests/docs/mistakes.txt, the commands' messages.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, get_args, get_origin

import typer
import typer.main
from prometheus_client.metrics_core import Metric
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from msd.commands import COMMANDS, load
from msd.dataset.config import DatasetConfig
from msd.feedback.judge_command import app as judge_app
from operations.replay.log import app as log_replay_app
from service.settings import PREFIX, Settings
from service.telemetry.metrics import Metrics
from tests.docs.leaderboard import leaderboard_lines
from tests.docs.mistakes import page_rows
from tests.docs.pages import ROOT

DATASET, MISTAKES = ROOT / "docs" / "dataset-toml.md", ROOT / "tests" / "docs" / "mistakes.txt"
_TABLE = re.compile(r"(?<=<!-- begin generated -->\n).*(?=<!-- end generated -->\n)", re.DOTALL)
_MARK = re.compile(r"<!-- generated: (\w+) -->")


class Family(NamedTuple):
    """A metric family. Labels without values are open."""

    name: str
    kind: str
    labels: dict[str, list[str]]
    help: str


def main() -> None:
    """Write what is kept."""
    for page, text in {MISTAKES: mistakes_page, DATASET: dataset_page}.items():
        page.write_text(text(), "utf-8")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace the marks of a page; called by MkDocs."""
    lines: dict[str, Callable[[], list[str]]] = {
        "cli": cli_lines,
        "leaderboard": leaderboard_lines,
        "metrics": metric_lines,
        "settings": setting_lines,
    }
    return _MARK.sub(lambda mark: "\n".join(lines[mark[1]]()), markdown)


def setting_lines() -> list[str]:
    """A row for each setting, in the order of the class."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        meaning = " ".join((field.description or "").split())
        lines.append(f"| `{PREFIX}{name.upper()}` | {setting_default(name)} | {meaning} |")
    return lines


def metric_lines() -> list[str]:
    """A row for each family that the service exposes."""
    lines = ["| metric | type | labels | what it says |", "|---|---|---|---|"]
    for family in metric_families():
        labels = "; ".join(f"`{name}`{': ' * bool(has)}{', '.join(has)}" for name, has in family.labels.items())
        lines.append(f"| `{family.name}` | {family.kind} | {labels or '–'} | {_cell(family.help)} |")
    return lines


def metric_families() -> Iterator[Family]:
    """All that the service exposes."""
    # A family without a sample does not tell its labels; its collector does.
    for collector in Metrics().families._collector_to_names:
        names = getattr(collector, "_labelnames", ())
        for family in collector.collect():
            name = family.name + "_total" * (family.type == "counter")
            yield Family(name, family.type, _labels_of(family, names), family.documentation)


def _labels_of(family: Metric, names: Iterable[str]) -> dict[str, list[str]]:
    """The values of each label that exist from the start."""
    found: dict[str, list[str]] = {name: [] for name in names}
    for sample in family.samples:
        for name, values in found.items():
            if sample.labels[name] not in values:
                values.append(sample.labels[name])
    return found


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


def cli_lines() -> list[str]:
    """Each command's help: what it does, its arguments and its options."""
    lines: list[str] = []
    for title, app in _apps():
        command: Any = typer.main.get_command(app)
        for name, subcommand in sorted(getattr(command, "commands", {"": command}).items()):
            lines += _command(f"{title} {name}".strip(), subcommand)
    return lines[1:]


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
    return _TABLE.sub(lambda _: "\n".join(lines[1:]) + "\n", DATASET.read_text("utf-8"))


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


if __name__ == "__main__":
    main()
