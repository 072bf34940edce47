"""What the variables of a rendered pod say to the service: read by its own code, and compared with the values."""

import re
from pathlib import Path
from typing import Any

import yaml

from service.limits import MAX_DEADLINE_MS
from service.settings import Settings, SettingsError
from tests.chart.helm import ChartError, Helm
from tests.chart.manifests import name_of
from tests.chart.settings import settings

_REFERENCE = re.compile(r"\$\((\w+)\)")
_NEEDED = {"keys": {"secret": "keys"}, "redis": {"enabled": True, "hosts": ["redis:6379"]}}
"""Values without which some settings are refused."""


def check_settings(manifests: list[dict[str, Any]]) -> None:
    """Raises ChartError when the service would not start by a Deployment's variables, or be ended too early."""
    maps = _maps(manifests)
    for deployment in (one for one in manifests if one["kind"] == "Deployment"):
        spec = deployment["spec"]["template"]["spec"]
        container = spec["containers"][0]
        try:
            told = Settings.from_environ(_environ(container, maps))
        except SettingsError as error:
            raise ChartError(f"{name_of(deployment)}: the service would refuse: {error}") from None
        pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if spec["terminationGracePeriodSeconds"] < pause + told.drain_seconds + MAX_DEADLINE_MS / 1000:
            raise ChartError(f"{name_of(deployment)}: is killed before it has answered all that it took on")
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        if ports != {"http": told.port, "admin": told.admin_port}:
            raise ChartError(f"{name_of(deployment)}: listens on another port than it says")


def check_each_setting(helm: Helm, values: Path, scratch: Path) -> int:
    """That each value under `settings` gets to the service: each is set to something else at once. Their number."""
    others = {one.value: _another(one.default, one.schema) for one in settings()}
    scratch.write_text(yaml.safe_dump({"settings": others, **_NEEDED}))
    told = Settings.from_environ(_environ(*_first_container(helm.template(values, scratch))))
    for one in settings():
        found = getattr(told, one.variable.removeprefix("MSD_").lower())
        if str(found) != str(others[one.value]):
            raise ChartError(f"settings.{one.value}: set to {others[one.value]!r}, and the service reads {found!r}")
    return len(others)


def _maps(manifests: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    return {one["metadata"]["name"]: one["data"] for one in manifests if one["kind"] == "ConfigMap"}


def _first_container(manifests: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    deployment = next(one for one in manifests if one["kind"] == "Deployment")
    return deployment["spec"]["template"]["spec"]["containers"][0], _maps(manifests)


def _environ(container: dict[str, Any], maps: dict[str, dict[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= maps[source["configMapRef"]["name"]]
    for one in container.get("env", []):
        # Of a URL in a Secret only its form matters here.
        name = "MSD_REDIS_URL" if one["name"] == "MSD_REDIS_URL_FILE" else one["name"]
        value = _REFERENCE.sub("x", one.get("value", ""))
        found[name] = value if value and name == one["name"] else "redis://h:6379/0"
    return found


def _another(default: Any, schema: dict[str, Any]) -> Any:  # noqa: ANN401 - a value of JSON
    """A value that the schema allows and that is not the default."""
    if "enum" in schema:
        return next(one for one in schema["enum"] if one != default)
    if isinstance(default, bool):
        return not default
    if isinstance(default, int | float):
        return default + 1 if default + 1 <= schema.get("maximum", default + 1) else default / 2
    if default == "auto":
        return 3
    return "another" if "pattern" in schema else "/another"
