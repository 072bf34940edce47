"""Parts of the chart that are generated: settings among its values, its schema's descriptions, its README's table.

`python -m tests.chart.written` writes them; tests hold the files to it.
"""

import json
import re
import textwrap
from pathlib import Path
from typing import Any

from tests.chart.settings import settings
from tests.chart.values import CHART, Value, at, values

_SETTINGS = re.compile(r"(?<=# begin settings\n).*(?=# end settings\n)", re.DOTALL)
_TABLE = re.compile(r"(?<=<!-- begin values -->\n).*(?=<!-- end values -->\n)", re.DOTALL)
README = CHART / "README.md"


def main() -> None:
    """Write the files in order of dependency."""
    for path, make in ((CHART / "values.yaml", values_yaml), (CHART / "values.schema.json", schema), (README, readme)):
        path.write_text(make(), "utf-8")


def values_yaml() -> str:
    """values.yaml with the service's settings as they are now."""
    lines = ["# Settings of the service, each with its environment variable; see docs/settings.md.", "settings:"]
    for one in settings():
        lines += [f"  # {line}" for line in textwrap.wrap(f"{_sentence(one.meaning)} (`{one.variable}`).", 115)]
        lines.append(f"  {one.value}: {json.dumps(one.default) if one.default == '' else _yaml(one.default)}")
    return _replaced(_SETTINGS, CHART / "values.yaml", "\n".join(lines) + "\n")


def schema() -> str:
    """values.schema.json with these settings, and what values.yaml says of each value as its description."""
    document = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    settled = {one.value: dict(one.schema) for one in settings()}
    document["$defs"]["settings"]["properties"] = settled
    for value in values():
        if at_schema := _schema_of(document, value.path):
            at_schema["description"] = value.comment
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def readme() -> str:
    """README.md with a table of all values: those of no section first."""
    found = values()
    lines = _table("", [one for one in found if "." not in one.path and not one.is_section])
    for section in found:
        if section.is_section and "." not in section.path:
            below = [one for one in found if one.path.startswith(f"{section.path}.") and not one.is_section]
            lines += ["", f"### {section.path}", *_table(section.comment, below)]
    return _replaced(_TABLE, README, "\n".join(lines).lstrip("\n") + "\n")


def _table(comment: str, rows: list[Value]) -> list[str]:
    head = ["", comment] if comment else []
    return [
        *head,
        "",
        "| value | default | meaning |",
        "|---|---|---|",
        *(f"| `{one.path}` | `{json.dumps(one.default, ensure_ascii=False)}` | {one.comment} |" for one in rows),
    ]


def _schema_of(document: dict[str, Any], path: str) -> dict[str, Any] | None:
    found = document
    for name in path.split("."):
        if "$ref" in found:
            found = at(document, found["$ref"].removeprefix("#/").split("/"))
        if name not in found["properties"]:
            raise SystemExit(f"{path}: has no type; add it to values.schema.json, and run this again")
        found = found["properties"][name]
    return None if "$ref" in found and path.count(".") else found


def _sentence(meaning: str) -> str:
    return meaning[0].upper() + meaning[1:].rstrip(".") if not meaning.startswith("`") else meaning.rstrip(".")


def _yaml(value: object) -> str:
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _replaced(place: "re.Pattern[str]", path: Path, text: str) -> str:
    return place.sub(lambda _: text, path.read_text("utf-8"))


if __name__ == "__main__":
    main()
