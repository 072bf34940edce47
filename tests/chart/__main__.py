"""`make chart`: tests the chart without a cluster, with real processes in place of containers."""

import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from msd.contract.errors import MsdError
from service.server.watchdog import grace_of
from service.settings import Settings, SettingsError
from tests.chart.helm import ChartError, Helm
from tests.chart.manifests import KUBERNETES, check_closed, check_together, name_of, validate
from tests.chart.rehearsal import Rehearsal
from tests.chart.values import CHART, GOOD, Refused, refused, settings

_PRODUCTION = "production.yaml"
_HARDENED = CHART / "values-production.yaml"
_REFERENCE = re.compile(r"\$\((\w+)\)")
_NEEDED = {"keys": {"secret": "keys"}, "redis": {"enabled": True, "hosts": ["redis:6379"]}}
"""Values without which some settings are refused."""


def main() -> None:
    """Print what was checked; exit status 1 if something is wrong."""
    console = Console(soft_wrap=True, highlight=False)
    try:
        with tempfile.TemporaryDirectory() as folder:
            _check(Helm(), Path(folder), console)
    except MsdError as error:
        console.print(f"error: {error}", style="red", markup=False)
        sys.exit(1)


def _check(helm: Helm, folder: Path, console: Console) -> None:
    console.print(f"helm {helm.version}; schemas of Kubernetes {' and '.join(KUBERNETES)}, strict")
    kinds = Counter(manifest["kind"] for path in GOOD for manifest in _check_values(helm, path))
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    console.print(f"{kinds.total()} manifests of {len(GOOD)} sets of values are valid: {listed}")
    console.print(f"{_check_each_setting(helm, GOOD[0], folder / 'settings.yaml')} settings reach the service")
    cases = refused()
    for case in cases:
        _check_refused(helm, case, folder / "refused.yaml")
    console.print(f"{len(cases)} wrong sets of values are refused, each with its reason")
    rehearsal = Rehearsal(helm, folder)
    for rehearse in (rehearsal.rolled, rehearsal.published):
        console.print(f"rehearsed: {rehearse.__name__}: {rehearse()}", markup=False)


def _check_values(helm: Helm, path: Path) -> list[dict[str, Any]]:
    files = (_HARDENED, path) if path.name == _PRODUCTION else (path,)
    try:
        manifests = helm.template(*files)
        for manifest in manifests:
            validate(manifest)
        check_together(manifests)
        _check_settings(manifests)
        if path.name == _PRODUCTION:
            check_closed(manifests)
    except ChartError as error:
        raise ChartError(f"{path}: {error}") from None
    return manifests


def _check_refused(helm: Helm, case: Refused, scratch: Path) -> None:
    scratch.write_text(yaml.safe_dump(case.values))
    try:
        helm.template(scratch)
    except ChartError as error:
        if case.message not in str(error):
            raise ChartError(f"{case.values}: expected {case.message!r}, got: {error}") from None
        return
    raise ChartError(f"{case.values}: not refused; expected {case.message!r}")


def _check_settings(manifests: list[dict[str, Any]]) -> None:
    """Raise ChartError if the service would not start with a Deployment's variables, or be killed too early."""
    maps = _maps(manifests)
    for deployment in (manifest for manifest in manifests if manifest["kind"] == "Deployment"):
        spec = deployment["spec"]["template"]["spec"]
        container = spec["containers"][0]
        try:
            read = Settings.from_environ(_environ(container, maps))
        except SettingsError as error:
            raise ChartError(f"{name_of(deployment)}: the service would refuse: {error}") from None
        pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if not 0 <= spec["terminationGracePeriodSeconds"] - pause - grace_of(read) < 1:
            raise ChartError(f"{name_of(deployment)}: is not killed when the service's own grace period ends")
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        if ports != {"http": read.port, "admin": read.admin_port}:
            raise ChartError(f"{name_of(deployment)}: listens on another port than it says")


def _check_each_setting(helm: Helm, values: Path, scratch: Path) -> int:
    """Set each value under `settings` to another value and check that the service reads it; return their number."""
    others = {setting.value: _another(setting.default, setting.schema) for setting in settings()}
    scratch.write_text(yaml.safe_dump({"settings": others, **_NEEDED}))
    manifests = helm.template(values, scratch)
    deployment = next(manifest for manifest in manifests if manifest["kind"] == "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    read = Settings.from_environ(_environ(container, _maps(manifests)))
    for name, other in ((setting.variable, others[setting.value]) for setting in settings()):
        found = getattr(read, name.removeprefix("MSD_").lower())
        if str(found) != str(other):
            raise ChartError(f"{name}: set to {other!r}, but the service reads {found!r}")
    return len(others)


def _maps(manifests: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    return {manifest["metadata"]["name"]: manifest["data"] for manifest in manifests if manifest["kind"] == "ConfigMap"}


def _environ(container: dict[str, Any], maps: dict[str, dict[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= maps[source["configMapRef"]["name"]]
    for variable in container.get("env", []):
        # Of a URL in a Secret only its form matters here.
        name = "MSD_REDIS_URL" if variable["name"] == "MSD_REDIS_URL_FILE" else variable["name"]
        value = _REFERENCE.sub("x", variable.get("value", ""))
        found[name] = value if value and name == variable["name"] else "redis://h:6379/0"
    return found


def _another(default: Any, schema: dict[str, Any]) -> Any:  # noqa: ANN401 - a value of JSON
    """Return a value that the schema allows and that is not the default."""
    if "enum" in schema:
        return next(value for value in schema["enum"] if value != default)
    if isinstance(default, bool):
        return not default
    if isinstance(default, int | float):
        return default + 1 if default + 1 <= schema.get("maximum", default + 1) else default / 2
    if "anyOf" in schema:  # a number, or a word for its absence
        number = schema["anyOf"][-1]
        return float(number["minimum"]) if number["type"] == "number" else number["minimum"]
    return "another" if "pattern" in schema else "/another"


if __name__ == "__main__":
    main()
