"""The chart's values: every setting of the service is one, each is documented and typed, and files are current."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml

from service.settings import PREFIX, Settings
from tests.chart import written
from tests.chart.settings import MANAGED, camel, settings
from tests.chart.values import CHART, values

SCHEMA = json.loads((CHART / "values.schema.json").read_text("utf-8"))
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
GOOD = sorted((CHART / "ci").glob("*.yaml"))
BAD = sorted((CHART / "ci" / "bad").glob("*.yaml"))
SECTIONS = {one.path for one in values() if one.is_section}
CURRENT = "run `make chart-files`"


def _leaves(document: dict[str, Any], above: str = "") -> Iterator[str]:
    for name, value in document.items():
        path = f"{above}{name}"
        if path in SECTIONS:
            yield from _leaves(value, f"{path}.")
        else:
            yield path


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    nested = {
        name: _merged(base[name], over[name]) for name in base.keys() & over.keys() if isinstance(base[name], dict)
    }
    return {**base, **over, **nested}


def test_every_value_is_documented() -> None:
    found = values()

    assert {one.path for one in found if not one.is_section} == set(_leaves(DEFAULTS))
    assert not [one.path for one in found if not one.comment.endswith(".")]


def test_every_setting_of_the_service_is_a_value() -> None:
    told = {one.value: one.default for one in settings()}

    assert DEFAULTS["settings"] == told
    assert {camel(name) for name in Settings.model_fields} == told.keys() | {camel(name) for name in MANAGED}
    for name, path in MANAGED.items():
        comment = " ".join(one.comment for one in values() if one.path.startswith(path.split(".")[0]))
        assert f"`{PREFIX}{name.upper()}`" in comment, f"{path}: its comment does not name the variable"


def test_every_value_is_read_by_a_template() -> None:
    """By its last name, since templates read sections as a whole."""
    templates = "".join(one.read_text("utf-8") for one in (CHART / "templates").rglob("*.*"))
    own = [one.path for one in values() if not one.is_section and not one.path.startswith("settings.")]

    assert not [path for path in own if not re.search(rf"\.{path.rpartition('.')[2]}\b", templates)]


def test_what_is_written_is_current() -> None:
    assert (CHART / "values.yaml").read_text("utf-8") == written.values_yaml(), CURRENT
    assert (CHART / "values.schema.json").read_text("utf-8") == written.schema(), CURRENT
    assert written.README.read_text("utf-8") == written.readme(), CURRENT


def test_the_schema_lets_no_unknown_value_pass() -> None:
    def objects(schema: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:  # noqa: ANN401 - any JSON
        if isinstance(schema, dict):
            if "properties" in schema and isinstance(schema["properties"], dict):
                yield place, schema
            for name, one in schema.items():
                yield from objects(one, f"{place}/{name}")

    found = dict(objects(SCHEMA, ""))
    assert len(found) > 20
    assert not [place for place, schema in found.items() if schema.get("additionalProperties") is not False]


@pytest.mark.parametrize("path", [CHART / "values.yaml", *GOOD], ids=lambda path: path.stem)
def test_good_values_fit_the_schema(path: Any) -> None:  # noqa: ANN401 - a path
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(_merged(DEFAULTS, yaml.safe_load(path.read_text("utf-8"))), SCHEMA)


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_bad_values_do_where_the_schema_can_tell(path: Any) -> None:  # noqa: ANN401 - a path
    text = path.read_text("utf-8")
    is_refused = not jsonschema.Draft7Validator(SCHEMA).is_valid(_merged(DEFAULTS, yaml.safe_load(text)))

    assert is_refused == text.startswith("# says: at '")


def test_rules_and_dashboards_are_packed() -> None:
    rules = yaml.safe_load((CHART / "files" / "rules.yaml").read_text("utf-8"))
    dashboards = sorted((CHART / "files" / "dashboards").glob("*.json"))

    assert {rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    assert len(dashboards) >= 4
    # A ConfigMap holds a megabyte.
    assert all(json.loads(path.read_text("utf-8"))["panels"] and path.stat().st_size < 900_000 for path in dashboards)
