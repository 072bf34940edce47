"""The chart's values: every setting is one, all are documented and typed, and generated files are current."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from service.settings import PREFIX, Settings
from tests.chart import written
from tests.chart.values import CHART, GOOD, MANAGED, Refused, camel, merged, refused, settings, values

SCHEMA = json.loads((CHART / "values.schema.json").read_text("utf-8"))
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
SECTIONS = {value.path for value in values() if value.is_section}


def test_every_value_is_documented() -> None:
    def leaves(document: dict[str, Any], above: str = "") -> Iterator[str]:
        for name, value in document.items():
            path = f"{above}{name}"
            yield from leaves(value, f"{path}.") if path in SECTIONS else [path]

    assert {value.path for value in values() if not value.is_section} == set(leaves(DEFAULTS))
    assert not [value.path for value in values() if not value.comment.endswith(".")]


def test_every_setting_of_the_service_is_a_value() -> None:
    defaults = {setting.value: setting.default for setting in settings()}

    assert DEFAULTS["settings"] == defaults
    assert {camel(name) for name in Settings.model_fields} == defaults.keys() | {camel(name) for name in MANAGED}
    for name, path in MANAGED.items():
        comment = " ".join(value.comment for value in values() if value.path.startswith(path.split(".")[0]))
        assert f"`{PREFIX}{name.upper()}`" in comment, f"{path}: its comment does not name the variable"


def test_every_value_is_read_by_a_template() -> None:
    """By its last name, since templates read sections as a whole."""
    templates = "".join(path.read_text("utf-8") for path in (CHART / "templates").rglob("*.*"))
    own = [value.path for value in values() if not value.is_section and not value.path.startswith("settings.")]

    assert not [path for path in own if not re.search(rf"\.{path.rpartition('.')[2]}\b", templates)]


def test_job_of_nights_passes_a_signal_on_and_succeeds_if_the_old_bundle_stays(tmp_path: Path) -> None:
    template = (CHART / "templates/nightly.yaml").read_text("utf-8")
    command = yaml.safe_load(next(line for line in template.splitlines() if "msd nightly" in line))["command"]
    began, ended, program = tmp_path / "began", tmp_path / "ended", tmp_path / "msd"
    program.write_text(
        f"""#!/bin/sh
[ "$STATUS" ] && exit "$STATUS"
trap 'kill $!; sleep 0.2; touch {ended}; exit 143' TERM
sleep 60 &
touch {began}
wait
"""
    )
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    statuses = [subprocess.run(command, env={**environment, "STATUS": one}, check=False).returncode for one in "031"]
    assert statuses == [0, 0, 1]
    with subprocess.Popen(command, env=environment) as job:
        while not began.exists():
            time.sleep(0.01)
        job.terminate()
    assert job.returncode != 0
    assert ended.exists()


def test_generated_files_are_current() -> None:
    assert (CHART / "values.yaml").read_text("utf-8") == written.values_yaml(), "run `make chart-files`"
    assert (CHART / "values.schema.json").read_text("utf-8") == written.schema(), "run `make chart-files`"


def test_schema_rejects_unknown_values() -> None:
    def objects(schema: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:  # noqa: ANN401 - any JSON
        if isinstance(schema, dict):
            if "properties" in schema and isinstance(schema["properties"], dict):
                yield place, schema
            for name, part in schema.items():
                yield from objects(part, f"{place}/{name}")

    found = dict(objects(SCHEMA, ""))
    assert len(found) > 20
    assert not [place for place, schema in found.items() if schema.get("additionalProperties") is not False]


@pytest.mark.parametrize("path", [CHART / "values.yaml", *GOOD], ids=lambda path: path.stem)
def test_good_values_fit_the_schema(path: Path) -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(merged(DEFAULTS, yaml.safe_load(path.read_text("utf-8"))), SCHEMA)


@pytest.mark.parametrize("case", refused(), ids=lambda case: case.message)
def test_schema_rejects_wrong_values(case: Refused) -> None:
    is_refused = not jsonschema.Draft7Validator(SCHEMA).is_valid(merged(DEFAULTS, case.values))

    assert is_refused == case.message.startswith("at '")
