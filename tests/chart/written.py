"""Generated parts of the chart: the settings in values.yaml, and the schema's descriptions.

`python -m tests.chart.written` writes them; tests compare the files.
"""

import json
import re
import textwrap
from typing import Any

from tests.chart.values import CHART, at, settings, values

_SETTINGS = re.compile(r"(?<=# begin settings\n).*(?=# end settings\n)", re.DOTALL)


def main() -> None:
    """Write the files in order of dependency."""
    for path, make in ((CHART / "values.yaml", values_yaml), (CHART / "values.schema.json", schema)):
        path.write_text(make(), "utf-8")


def values_yaml() -> str:
    """Return values.yaml with the service's current settings."""
    lines = ["# Settings of the service, each with its environment variable; see docs/settings.md.", "settings:"]
    for setting in settings():
        words = setting.meaning.rstrip(".")
        meaning = f"{words if words.startswith('`') else words[0].upper() + words[1:]} (`{setting.variable}`)."
        lines += [f"  # {line}" for line in textwrap.wrap(meaning, 115)]
        is_word = isinstance(setting.default, str) and setting.default
        lines.append(f"  {setting.value}: {setting.default if is_word else json.dumps(setting.default)}")
    return _SETTINGS.sub(lambda _: "\n".join(lines) + "\n", (CHART / "values.yaml").read_text("utf-8"))


def schema() -> str:
    """Return values.schema.json with these settings, and the comments of values.yaml as descriptions."""
    document = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    document["$defs"]["settings"]["properties"] = {setting.value: dict(setting.schema) for setting in settings()}
    for value in values():
        if at_schema := _schema_of(document, value.path):
            at_schema["description"] = value.comment
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _schema_of(document: dict[str, Any], path: str) -> dict[str, Any] | None:
    found = document
    for name in path.split("."):
        if "$ref" in found:
            found = at(document, found["$ref"].removeprefix("#/").split("/"))
        if name not in found["properties"]:
            raise SystemExit(f"{path}: has no type; add it to values.schema.json, and run this again")
        found = found["properties"][name]
    return None if "$ref" in found and path.count(".") else found


if __name__ == "__main__":
    main()
