"""KServe's manifests fit Kubernetes and the service. KServe's own schema is not available here."""

import re
from typing import Any

import pytest
import yaml

from msd.contract.bundle import FORMAT_VERSION
from service.settings import Settings
from tests.chart.manifests import validate
from tests.chart.values import CHART, ROOT
from tests.service.live import LiveService

TEXTS = {path.stem: path.read_text("utf-8") for path in sorted((ROOT / "helm" / "kserve").glob("*.yaml"))}
DOCUMENTS: dict[str, dict[str, Any]] = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
PODS = {
    name: document["spec"] if document["kind"] == "ServingRuntime" else document["spec"]["predictor"]
    for name, document in DOCUMENTS.items()
}


@pytest.mark.parametrize("name", [name for name, pod in PODS.items() if "containers" in pod])
def test_containers_fit_kubernetes_and_the_service(name: str, service: LiveService) -> None:
    pod = PODS[name]
    spec = {part: pod[part] for part in ("initContainers", "containers", "volumes") if part in pod}
    validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
    container = pod["containers"][0]
    settings = Settings.from_environ({variable["name"]: variable["value"] for variable in container["env"]})
    probes = [container[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")]
    with service.client() as client:
        assert {client.get(probe["path"]).status_code for probe in probes} == {200}

    assert container["name"] == "kserve-container"
    assert (settings.host, settings.port) == ("0.0.0.0", container["ports"][0]["containerPort"])
    assert {probe["port"] for probe in probes} == {settings.port}
    places = ["/mnt/models", *(mount["mountPath"] for mount in container["volumeMounts"])]
    assert str(settings.bundle).startswith(tuple(place for place in places if place != "/tmp"))


@pytest.mark.parametrize("name", TEXTS)
def test_names_versions_and_images_fit_together(name: str, service: LiveService) -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert set(re.findall(r"image: (\S+)", TEXTS[name])) <= {f"msd-ctr:{chart['appVersion']}"}
    assert {int(version) for version in re.findall(r'version: "(\d+)"', TEXTS[name])} <= {FORMAT_VERSION}
    if DOCUMENTS[name]["kind"] == "InferenceService":
        assert PODS[name]["terminationGracePeriodSeconds"] == Settings.model_fields["grace_seconds"].default
        with service.client() as client:
            assert client.get(f"/v2/models/{DOCUMENTS[name]['metadata']['name']}/ready").status_code == 200


def test_runtime_supports_the_format_of_its_service() -> None:
    runtime, model = DOCUMENTS["serving-runtime"], PODS["inference-service"]["model"]
    formats = [{"name": kept["name"], "version": kept["version"]} for kept in runtime["spec"]["supportedModelFormats"]]

    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["modelFormat"] in formats
