"""Runs a rendered pod's containers as processes of this machine, as a kubelet would.

Init containers first, variables, volumes, probes, SIGTERM and its grace; what it has not: isolation, users, limits.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.chart.helm import ChartError
from tests.chart.settings import ROOT
from tests.service.live import wait_until

_PROGRAMS = {"msd": [sys.executable, "-m", "msd"]}
_REFERENCE = re.compile(r"\$\((\w+)\)")
Secrets = Mapping[str, Mapping[str, bytes]]
"""Of Secrets and ConfigMaps that the chart does not make: their keys, by name."""


class Pod:
    """The pod of a Deployment or a Job, with the volumes in a folder."""

    def __init__(self, owner: dict[str, Any], manifests: list[dict[str, Any]], secrets: Secrets, folder: Path) -> None:
        self.spec: dict[str, Any] = owner["spec"]["template"]["spec"]
        self._folder = folder
        self._kept = {
            **secrets,
            **{one["metadata"]["name"]: _data(one) for one in manifests if one["kind"] == "ConfigMap"},
        }
        for volume in self.spec["volumes"]:
            self._make(volume)

    def run_to_end(self, container: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
        """An init container, or a Job's."""
        return subprocess.run(
            self._command(container, [*container["command"], *container["args"]]),
            env=self._environ(container),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def initialise(self) -> None:
        """All init containers. Raises ChartError with what one says that fails: the pod does not start."""
        for container in self.spec.get("initContainers", []):
            ended = self.run_to_end(container)
            if ended.returncode:
                raise ChartError(f"{container['name']}: {ended.stderr.strip()}")

    @contextmanager
    def running(self) -> Iterator["subprocess.Popen[bytes]"]:
        """Its container from when it is started and ready; afterwards it is ended as Kubernetes does."""
        container = self.spec["containers"][0]
        with (self._folder / "log").open("wb") as log:
            process = subprocess.Popen(
                self._command(container, [*container["command"], *container["args"]]),
                env=self._environ(container),
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(lambda: process.poll() is not None or self.probe("startupProbe"), 60.0)
            wait_until(lambda: process.poll() is not None or self.probe("readinessProbe"), 60.0)
            if process.poll() is not None:
                raise ChartError(f"it ended: {self.log()[-600:]}")
            yield process
            time.sleep(container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0))
            process.send_signal(signal.SIGTERM)
            if process.wait(self.spec["terminationGracePeriodSeconds"]):
                raise ChartError(f"it ended with status {process.returncode}: {self.log()[-600:]}")
        finally:
            process.kill()
            process.wait()

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self.spec["containers"][0]["ports"][0]["containerPort"]
        return port

    def probe(self, name: str) -> bool:
        """Whether a probe succeeds now."""
        container = self.spec["containers"][0]
        probe = container[name]
        asked, ports = probe["httpGet"], {port["name"]: port["containerPort"] for port in container["ports"]}
        if asked["port"] not in ports:
            raise ChartError(f"{name}: asks the port {asked['port']}, which there is not")
        url = f"{asked.get('scheme', 'HTTP').lower()}://127.0.0.1:{ports[asked['port']]}{asked['path']}"
        try:
            return httpx.get(url, verify=False, trust_env=False, timeout=probe["timeoutSeconds"]).is_success
        except httpx.TransportError:
            return False

    def log(self) -> str:
        """What it has said."""
        return (self._folder / "log").read_text("utf-8")

    def _make(self, volume: dict[str, Any]) -> None:
        """The volume's folder; a claim's is as it was made before."""
        folder = self._folder / "volumes" / volume["name"]
        folder.mkdir(parents=True, exist_ok=True)
        name = volume.get("secret", {}).get("secretName") or volume.get("configMap", {}).get("name")
        if name is None:
            return
        if name not in self._kept:
            raise ChartError(f"volume {volume['name']}: no Secret or ConfigMap {name}")
        items = {item["key"]: item["path"] for item in volume.get("secret", {}).get("items", [])}
        for key, content in self._kept[name].items():
            (folder / items.get(key, key)).write_bytes(content)

    def _places(self, container: dict[str, Any]) -> list[tuple[str, str]]:
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        return [(path, str(self._folder / "volumes" / name)) for path, name in sorted(mounts.items(), reverse=True)]

    def _placed(self, container: dict[str, Any], text: str) -> str:
        """The text with the places of volumes as they are on this machine."""
        for path, folder in self._places(container):
            text = re.sub(rf"(?<![\w/.]){re.escape(path)}(?![\w-])", folder, text)
        return text

    def _command(self, container: dict[str, Any], given: list[str]) -> list[str]:
        return [*_PROGRAMS[given[0]], *(self._placed(container, one) for one in given[1:])]

    def _environ(self, container: dict[str, Any]) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            name = (source.get("configMapRef") or source["secretRef"])["name"]
            found |= {key: value.decode() for key, value in self._kept[name].items()}
        for one in container.get("env", []):
            reference = one.get("valueFrom", {}).get("secretKeyRef")
            if reference:
                found[one["name"]] = self._kept[reference["name"]][reference["key"]].decode()
            elif "value" in one:
                found[one["name"]] = _REFERENCE.sub(lambda name: found[name[1]], one["value"])
        temporary = str(self._folder / "volumes" / "tmp")
        kept = {"PATH": os.environ["PATH"], "TMPDIR": temporary, "PYTHONPATH": str(ROOT), "no_proxy": "*"}
        return kept | {name: self._placed(container, value) for name, value in found.items()}


def _data(config_map: dict[str, Any]) -> dict[str, bytes]:
    return {key: value.encode() for key, value in config_map["data"].items()}
