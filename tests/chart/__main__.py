"""`make chart`: what can be said of the chart without a cluster, real processes standing for containers."""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from msd.contract.errors import MsdError
from tests.chart.environments import check_each_setting, check_settings
from tests.chart.helm import ChartError, Helm
from tests.chart.manifests import KUBERNETES, OURS, check_closed, check_together, validate
from tests.chart.rehearsal import Rehearsal
from tests.chart.values import CHART

_SAYS = "# says: "
_SKIPPED = {
    "CKV_K8S_43": "an image's digest is the user's to give: image.digest",
    "CKV_K8S_15": "a pod has to start when the registry does not answer; by digest it is the same image",
    "CKV_K8S_35": "S3's credentials, and a URL of Redis, are read from variables, as their libraries do",
}
"""checkov's checks that are left out where it is not production, and why."""
_PRODUCTION = "production.yaml"
_HARDENED = CHART / "values-production.yaml"
_LINTERS = {
    "kubeconform": ["-strict", "-summary", "-ignore-missing-schemas"],
    "kube-linter": ["lint"],
}
"""Programs that look at production's manifests where they are on the PATH: they are in no package registry."""


def main() -> None:
    """Prints what was checked; the exit status is 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="make chart")
    parser.add_argument("--checkov", default=shutil.which("checkov"), help="The program, else one on the PATH.")
    given = parser.parse_args()
    console = Console(soft_wrap=True, highlight=False)
    try:
        with tempfile.TemporaryDirectory() as folder:
            _check(Helm(), given.checkov, Path(folder), console)
    except MsdError as error:
        console.print(f"error: {error}", style="red", markup=False)
        sys.exit(1)


def _check(helm: Helm, checkov: str | None, folder: Path, console: Console) -> None:
    console.print(f"helm {helm.version}; schemas of Kubernetes {' and '.join(KUBERNETES)}, strict")
    total: Counter[str] = Counter()
    cases = sorted((CHART / "ci").glob("*.yaml"))
    for path in cases:
        helm.lint(*_given(path))
        manifests = _check_values(helm, path)
        (folder / path.name).write_text(yaml.safe_dump_all(manifests))
        kinds = Counter(manifest["kind"] for manifest in manifests)
        total += kinds
        console.print(f"  {path.stem}: {_listed(kinds)}")
    ours = sorted(set(total) & OURS.keys())
    console.print(f"{total.total()} manifests of {len(cases)} sets of values: {_listed(total)}")
    console.print(f"  against own small schemas, since Kubernetes' have none: {', '.join(ours)}")
    console.print(f"{check_each_setting(helm, cases[0], folder / 'settings.yaml')} settings reach the service")
    refused = sorted((CHART / "ci" / "bad").glob("*.yaml"))
    for path in refused:
        _check_refused(helm, path)
    console.print(f"{len(refused)} wrong sets of values are refused, each with its reason")
    if checkov:
        console.print(_checkov(checkov, [folder / _PRODUCTION], ()), "as in production, nothing left out")
        console.print(_checkov(checkov, [folder / path.name for path in cases], tuple(_SKIPPED)))
        for name, why in _SKIPPED.items():
            console.print(f"  left out: {name}: {why}")
    else:
        console.print("checkov was not asked (make chart CHECKOV=its program)")
    for name, options in _LINTERS.items():
        console.print(_lint(name, options, folder / _PRODUCTION))
    rehearsal = Rehearsal(helm, folder)
    for rehearse in (rehearsal.fetched, rehearsal.rolled, rehearsal.redis, rehearsal.mutual_tls):
        console.print(f"rehearsed: {rehearse.__name__}: {rehearse()}", markup=False)


def _check_values(helm: Helm, path: Path) -> list[dict[str, Any]]:
    try:
        manifests = helm.template(*_given(path))
        for manifest in manifests:
            validate(manifest)
        check_together(manifests)
        check_settings(manifests)
        if path.name == _PRODUCTION:
            check_closed(manifests)
    except ChartError as error:
        raise ChartError(f"{path}: {error}") from None
    return manifests


def _check_refused(helm: Helm, path: Path) -> None:
    expected = path.read_text("utf-8").splitlines()[0].removeprefix(_SAYS)
    try:
        helm.template(path)
    except ChartError as error:
        if expected not in str(error):
            raise ChartError(f"{path}: is refused, but not for {expected!r}: {error}") from None
        return
    raise ChartError(f"{path}: is not refused; expected was {expected!r}")


def _given(path: Path) -> tuple[Path, ...]:
    """The values of a case, those of the hardened profile below them where it is that."""
    return (_HARDENED, path) if path.name == _PRODUCTION else (path,)


def _lint(name: str, options: list[str], manifests: Path) -> str:
    if shutil.which(name) is None:
        return f"{name} is not on the PATH: its checks were left out"
    ended = subprocess.run([name, *options, str(manifests)], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise ChartError(f"{name}: {ended.stdout[-3000:]}{ended.stderr[-1000:]}")
    return f"{name}: nothing found in production's manifests"


def _checkov(program: str, files: list[Path], skipped: tuple[str, ...]) -> str:
    command = [program, "--framework", "kubernetes", "--compact", "--quiet", "--skip-download"]
    ended = subprocess.run(
        [*command, *(["--skip-check", ",".join(skipped)] if skipped else []), "--file", *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode or "Passed checks" not in ended.stdout and ended.stdout.strip():
        raise ChartError(f"checkov: {ended.stdout[-3000:]}{ended.stderr[-1000:]}")
    return f"checkov: nothing found in {len(files)} sets of manifests"


def _listed(kinds: "Counter[str]") -> str:
    return ", ".join(f"{count} {kind}" if count > 1 else kind for kind, count in sorted(kinds.items()))


if __name__ == "__main__":
    main()
