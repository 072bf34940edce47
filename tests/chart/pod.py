"""A rendered pod, whose containers run as processes of this machine, as a kubelet would run them.

Init containers first, variables, volumes, probes, SIGTERM and its grace period; no isolation, users or limits.
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
from tests.chart.values import ROOT
from tests.service.live import wait_until

_REFERENCE = re.compile(r"\$\((\w+)\)")
Secrets = Mapping[str, Mapping[str, bytes]]
"""Contents of Secrets and ConfigMaps that the chart does not make, by name and key."""


class Pod:
    """The pod of a Deployment or a Job, with its volumes in a folder."""

    def __init__(self, owner: dict[str, Any], manifests: list[dict[str, Any]], secrets: Secrets, folder: Path) -> None:
        spec: dict[str, Any] = owner["spec"]["template"]["spec"]
        self._folder, self._log = folder, folder / "log"
        self._init_containers = spec.get("initContainers", [])
        self._container: dict[str, Any] = spec["containers"][0]
        self._grace_s = spec.get("terminationGracePeriodSeconds")
        self._ports = {port["name"]: port["containerPort"] for port in self._container.get("ports", [])}
        self._files: dict[str, Mapping[str, bytes]] = dict(secrets)
        for manifest in manifests:
            if manifest["kind"] == "ConfigMap":
                files = {key: text.encode() for key, text in manifest["data"].items()}
                self._files[manifest["metadata"]["name"]] = files
        for volume in spec["volumes"]:
            self._make(volume)

    @property
    def port(self) -> int:
        """The port of the service."""
        port: int = self._ports["http"]
        return port

    def run_job(self) -> str:
        """Return the output of a Job's container. Raises ChartError if it fails."""
        return self._run_to_end(self._container)

    def initialise(self) -> None:
        """Run all init containers. Raises ChartError if one fails: the pod does not start."""
        for container in self._init_containers:
            self._run_to_end(container)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the container from readiness to the end, as Kubernetes does. Raises ChartError if it fails."""
        container = self._container
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                self._command(container), env=self._environ(container), cwd=ROOT, stdout=log, stderr=log
            )
        try:
            for name in ("startupProbe", "readinessProbe"):
                wait_until(lambda name=name: process.poll() is not None or self.probe(name))
            if process.poll() is not None:
                raise ChartError(f"the container ended: {self._log.read_text('utf-8')[-600:]}")
            yield
            time.sleep(container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0))
            process.send_signal(signal.SIGTERM)
            if process.wait(self._grace_s):
                raise ChartError(f"it ended with status {process.returncode}: {self._log.read_text('utf-8')[-600:]}")
        finally:
            process.kill()
            process.wait()

    def probe(self, name: str) -> bool:
        """Return whether a probe succeeds now. Raises ChartError if it names no port."""
        probe = self._container[name]
        get = probe["httpGet"]
        if get["port"] not in self._ports:
            raise ChartError(f"{name}: no such port: {get['port']}")
        url = f"{get.get('scheme', 'HTTP').lower()}://127.0.0.1:{self._ports[get['port']]}{get['path']}"
        try:
            return httpx.get(url, verify=False, trust_env=False, timeout=probe["timeoutSeconds"]).is_success
        except httpx.TransportError:
            return False

    def _make(self, volume: dict[str, Any]) -> None:
        folder = self._folder / "volumes" / volume["name"]
        folder.mkdir(parents=True, exist_ok=True)
        name = volume.get("secret", {}).get("secretName") or volume.get("configMap", {}).get("name")
        if name is None:
            return
        if name not in self._files:
            raise ChartError(f"volume {volume['name']}: no Secret or ConfigMap {name}")
        items = {item["key"]: item["path"] for item in volume.get("secret", {}).get("items", [])}
        for key, content in self._files[name].items():
            (folder / items.get(key, key)).write_bytes(content)

    def _run_to_end(self, container: dict[str, Any]) -> str:
        command, environ = self._command(container), self._environ(container)
        ended = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        if ended.returncode:
            raise ChartError(f"{container['name']}: {ended.stderr.strip()}")
        return ended.stdout.strip()

    def _placed(self, container: dict[str, Any], text: str) -> str:
        """Return the text with the volumes' paths on this machine."""
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        for path, name in sorted(mounts.items(), reverse=True):
            text = re.sub(rf"(?<![\w/.]){re.escape(path)}(?![\w-])", str(self._folder / "volumes" / name), text)
        return text

    def _command(self, container: dict[str, Any]) -> list[str]:
        program, *arguments = (str(part) for part in (*container["command"], *container["args"]))
        assert program == "msd"
        return [sys.executable, "-m", "msd", *(self._placed(container, argument) for argument in arguments)]

    def _environ(self, container: dict[str, Any]) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            name = (source.get("configMapRef") or source["secretRef"])["name"]
            found |= {key: value.decode() for key, value in self._files[name].items()}
        for variable in container.get("env", []):
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference:
                found[variable["name"]] = self._files[reference["name"]][reference["key"]].decode()
            elif "value" in variable:
                found[variable["name"]] = _REFERENCE.sub(lambda name: found[name[1]], variable["value"])
        temporary = str(self._folder / "volumes" / "tmp")
        usual = {"PATH": os.environ["PATH"], "TMPDIR": temporary, "PYTHONPATH": str(ROOT), "no_proxy": "*"}
        return usual | {name: self._placed(container, value) for name, value in found.items()}
