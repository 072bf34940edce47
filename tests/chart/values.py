"""values.yaml with its comments: what each value is for, as the chart's README says it.

Reads no more of YAML than that file needs; a test holds what it finds to what YAML's own parser finds.
"""

import re
from typing import Any, NamedTuple

import yaml

from tests.chart.settings import ROOT

CHART = ROOT / "helm" / "msd-ctr"
_LINE = re.compile(r"( *)([A-Za-z0-9]+):(.*)")


class Value(NamedTuple):
    """A value, or a section of values."""

    path: str
    default: Any
    comment: str
    is_section: bool


def values() -> list[Value]:
    """All of them, in the file's order; what is below a value that has a type of Kubernetes is part of its default."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    found: list[Value] = []
    above: list[str] = []
    comment: list[str] = []
    for line in (CHART / "values.yaml").read_text("utf-8").splitlines():
        text = line.strip()
        if text.startswith(("# begin ", "# end ")):  # markers of what is generated
            comment = []
        elif text.startswith("# "):
            comment.append(text[2:])
        elif not (key := _LINE.fullmatch(line)):
            comment = []
        elif _is_within(found, ".".join(above[: len(key[1]) // 2])):
            continue
        else:
            above = [*above[: len(key[1]) // 2], key[2]]
            default = at(defaults, above)
            is_section = not key[3].strip() and key[2] != "resources"
            found.append(Value(".".join(above), default, " ".join(comment), is_section))
            comment = []
    return found


def at(document: Any, path: list[str]) -> Any:  # noqa: ANN401 - a value of YAML
    """What is at a place."""
    for name in path:
        document = document[name]
    return document


def _is_within(found: list[Value], parent: str) -> bool:
    """Whether this is part of the default of a value that was found."""
    return any(one.path == parent and not one.is_section for one in found)
