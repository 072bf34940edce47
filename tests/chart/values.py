"""The chart's values: those of values.yaml with their comments, and the service's settings among them.

Reads no more of YAML than values.yaml needs; a test compares the result with that of YAML's own parser.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from service.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "msd-ctr"
REFUSED = CHART / "ci" / "refused.yaml"
GOOD = [*sorted({*(CHART / "ci").glob("*.yaml")} - {REFUSED}), ROOT / "examples/kubernetes/values.yaml"]
MANAGED = {
    "bundle": "bundle.source",
    "store": "redis.enabled",
    "redis_url": "redis.mode",
    "redis_url_file": "redis.urlSecret",
    "host": "listen.host",
    "port": "listen.port",
    "admin_port": "listen.adminPort",
    "trusted_keys": "bundle.trustedKeysSecret",
    "keys_file": "keys.secret",
    "tls_cert": "tls.secret",
    "tls_key": "tls.secret",
    "tls_client_ca": "tls.clientCaSecret",
    "state_dir": "state.claim",
    "log_dir": "log.enabled",
}
"""Settings that follow from other values of the chart: a volume that is mounted, a Secret."""
_LINE = re.compile(r"( *)([A-Za-z0-9]+):(.*)")
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")
_ASIDE = re.compile(rf" \({_LINK.pattern}\)|; {_LINK.pattern}(?=\))")
"""A link that stands alone in brackets: the chart's readers do not have the page."""


class Value(NamedTuple):
    """A value, or a section of values."""

    path: str
    default: Any
    comment: str
    is_section: bool


class Setting(NamedTuple):
    """A setting of the service; `value` is its name below `settings`."""

    value: str
    variable: str
    default: Any
    schema: dict[str, Any]
    meaning: str


class Refused(NamedTuple):
    """Values that the chart must refuse, and a part of the message."""

    message: str
    values: dict[str, Any]


def refused() -> list[Refused]:
    """Return all cases of refused.yaml."""
    usual = {"bundle": {"source": "claim", "claim": {"name": "bundles"}}}
    cases = yaml.safe_load(REFUSED.read_text("utf-8"))
    return [Refused(case.pop("message"), usual | case) for case in cases]


def values() -> list[Value]:
    """Return all values in the file's order. What is below a value that has a type of Kubernetes is part of its
    default."""
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
        elif any(value.path == ".".join(above[: len(key[1]) // 2]) and not value.is_section for value in found):
            continue  # part of an earlier value's default
        else:
            above = [*above[: len(key[1]) // 2], key[2]]
            is_section = not key[3].strip() and key[2] != "resources"
            found.append(Value(".".join(above), at(defaults, above), " ".join(comment), is_section))
            comment = []
    return found


def settings() -> list[Setting]:
    """Return the settings that are values of their own, in the order of the service's class."""
    schemas = Settings.model_json_schema()["properties"]
    found = []
    for name, field in Settings.model_fields.items():
        if name in MANAGED:
            continue
        default = "auto" if name == "workers" else "" if field.default is None else field.default
        meaning = _LINK.sub(r"\1", _ASIDE.sub("", " ".join((field.description or "").split())))
        found.append(Setting(camel(name), f"{PREFIX}{name.upper()}", default, _schema(name, schemas[name]), meaning))
    return found


def camel(name: str) -> str:
    """Return a setting's name as the chart spells it: max_body_bytes is maxBodyBytes."""
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def at(document: Any, path: list[str]) -> Any:  # noqa: ANN401 - a value of YAML
    """Return what is at a place."""
    for name in path:
        document = document[name]
    return document


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return values over defaults, as helm merges them."""
    nested = {
        name: merged(base[name], over[name]) for name in base.keys() & over.keys() if isinstance(base[name], dict)
    }
    return {**base, **over, **nested}


def _schema(name: str, found: dict[str, Any]) -> dict[str, Any]:
    if name == "workers":  # read by a validator, which its schema does not show
        return {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": 512}]}
    hidden = ("title", "default", "anyOf", "format", "description")
    plain = {key: value for key, value in found.items() if key not in hidden}
    for kind in found.get("anyOf", []):
        plain |= {} if kind == {"type": "null"} else {key: value for key, value in kind.items() if key != "format"}
    # A value that is not given is an empty text.
    is_optional_number = found.get("default", 0) is None and plain["type"] != "string"
    return {"anyOf": [{"const": ""}, plain]} if is_optional_number else plain
