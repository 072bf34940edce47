"""The service's settings as values of the chart: which stand under `settings`, how they are called, what they may be.

The service's own class is what counts; the meanings are those of docs/operations.md.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from service.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
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
_ROW = re.compile(r"\| (`MSD_.+?) \| (.+?) \| (.+) \|")
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")


class Setting(NamedTuple):
    """One setting as a value."""

    value: str
    """Below `settings`."""
    variable: str
    default: Any
    schema: dict[str, Any]
    meaning: str


class Row(NamedTuple):
    """What docs/operations.md says of a variable; `default` as it stands there."""

    default: str
    meaning: str


def documented() -> dict[str, Row]:
    """The table of settings there, in its order."""
    found: dict[str, Row] = {}
    for line in (ROOT / "docs" / "operations.md").read_text("utf-8").splitlines():
        if row := _ROW.fullmatch(line):
            names = [name.strip("` ") for name in row[1].split(",")]
            defaults = row[2].split(", ") if ", " in row[2] else [row[2]] * len(names)
            for name, default in zip(names, defaults, strict=True):
                found[name] = Row(default.strip("`"), _LINK.sub(r"\1", row[3]))
    return found


def settings() -> list[Setting]:
    """Those that are values of their own, in the order of the table, whose rows speak of each other."""
    schemas, meanings = Settings.model_json_schema()["properties"], documented()
    order = list(meanings)
    found = []
    for name, field in Settings.model_fields.items():
        variable = f"{PREFIX}{name.upper()}"
        if name in MANAGED:
            continue
        default = "auto" if name == "workers" else "" if field.default is None else field.default
        meaning = meanings[variable].meaning if variable in meanings else ""
        found.append(Setting(camel(name), variable, default, _schema(name, schemas[name]), meaning))
    return sorted(found, key=lambda one: order.index(one.variable) if one.variable in meanings else len(order))


def camel(name: str) -> str:
    """As values are called: max_body_bytes is maxBodyBytes."""
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def _schema(name: str, found: dict[str, Any]) -> dict[str, Any]:
    if name == "workers":  # it is read by a validator, of which its schema does not tell
        return {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": 512}]}
    plain = {key: value for key, value in found.items() if key not in ("title", "default", "anyOf", "format")}
    for one in found.get("anyOf", []):
        plain |= {} if one == {"type": "null"} else {key: value for key, value in one.items() if key != "format"}
    return plain
