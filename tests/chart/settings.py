"""The service's settings as values of the chart: which stand under `settings`, how they are called, what they may be.

All of it comes from the service's own class.
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
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")
_ASIDE = re.compile(rf" \({_LINK.pattern}\)|; {_LINK.pattern}(?=\))")
"""A link that stands alone in brackets: the chart's readers do not have the page."""


class Setting(NamedTuple):
    """One setting as a value."""

    value: str
    """Below `settings`."""
    variable: str
    default: Any
    schema: dict[str, Any]
    meaning: str


def settings() -> list[Setting]:
    """Those that are values of their own, in the order of the class."""
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
    """As values are called: max_body_bytes is maxBodyBytes."""
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def _schema(name: str, found: dict[str, Any]) -> dict[str, Any]:
    if name == "workers":  # it is read by a validator, of which its schema does not tell
        return {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": 512}]}
    plain = {
        key: value for key, value in found.items() if key not in ("title", "default", "anyOf", "format", "description")
    }
    for one in found.get("anyOf", []):
        plain |= {} if one == {"type": "null"} else {key: value for key, value in one.items() if key != "format"}
    return plain
