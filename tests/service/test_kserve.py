"""KServe's manifests: their containers are Kubernetes' own, and what they say of the service is so.

KServe's part of them is not looked at here: it was held against the models of its Python package, by hand.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from msd.contract.bundle import FORMAT_VERSION
from service.limits import MAX_DEADLINE_MS
from service.settings import Settings
from tests.chart.manifests import validate
from tests.chart.values import CHART, ROOT
from tests.service.live import LiveService

FILES = sorted((ROOT / "helm" / "kserve").glob("*.yaml"))


def _document(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return found


def _pod(document: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = document["spec"]
    return spec if document["kind"] == "ServingRuntime" else spec["predictor"]


WITH_CONTAINERS = [path for path in FILES if "containers" in _pod(_document(path))]


@pytest.mark.parametrize("path", WITH_CONTAINERS, ids=lambda path: path.stem)
def test_containers_are_kubernetes_own(path: Path) -> None:
    pod = _pod(_document(path))
    spec = {name: pod[name] for name in ("initContainers", "containers", "volumes") if name in pod}

    validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": path.stem}, "spec": spec})


@pytest.mark.parametrize("path", WITH_CONTAINERS, ids=lambda path: path.stem)
def test_variables_ports_and_paths_are_the_services(path: Path, service: LiveService) -> None:
    container = _pod(_document(path))["containers"][0]
    environ = {one["name"]: one["value"] for one in container["env"]}
    told = Settings.from_environ(environ)
    probes = [container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
    with service.client() as client:
        answers = {probe["path"]: client.get(probe["path"]).status_code for probe in probes}

    assert container["name"] == "kserve-container"
    assert (told.host, told.port) == ("0.0.0.0", container["ports"][0]["containerPort"])
    assert {probe["port"] for probe in probes} == {told.port}
    assert set(answers.values()) == {200}, answers
    assert any(str(told.bundle).startswith(mount["mountPath"]) for mount in container["volumeMounts"]) or (
        str(told.bundle) == "/mnt/models"
    )


def test_clients_find_the_model_by_the_services_name(service: LiveService) -> None:
    names = {_document(path)["metadata"]["name"] for path in FILES if _document(path)["kind"] == "InferenceService"}
    with service.client() as client:
        assert {name: client.get(f"/v2/models/{name}/ready").status_code for name in names} == {"msd": 200}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_names_versions_and_images_fit_together(path: Path) -> None:
    document, chart = _document(path), yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    text = path.read_text("utf-8")
    images = set(re.findall(r"image: (\S+)", text))

    assert images <= {f"msd-ctr:{chart['appVersion']}"}
    if document["kind"] == "InferenceService":
        pod = _pod(document)
        least = Settings.model_fields["drain_seconds"].default + MAX_DEADLINE_MS / 1000
        assert pod["terminationGracePeriodSeconds"] > least
    for version in re.findall(r'version: "(\d+)"', text):
        assert int(version) == FORMAT_VERSION


def test_runtime_takes_what_the_service_asks_it_for() -> None:
    found = {path.stem: _document(path) for path in FILES}
    runtime, asked = found["serving-runtime"], found["inference-service"]
    model, taken = asked["spec"]["predictor"]["model"], runtime["spec"]["supportedModelFormats"]

    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["modelFormat"] in [{"name": one["name"], "version": one["version"]} for one in taken]
