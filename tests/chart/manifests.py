"""Manifests validated against the schemas of Kubernetes, strictly, and against each other.

There are none for the Prometheus operator's kinds: these have small schemas here.
"""

from collections.abc import Iterator
from typing import Any

import jsonschema
import kubernetes_validate

from tests.chart.helm import ChartError

KUBERNETES = ("1.30", "1.37")
"""The oldest supported version, and the newest with known schemas."""
_IMAGE_VOLUMES = ("1.33", "1.37")
_VOLUMES = {"configMap", "emptyDir", "image", "persistentVolumeClaim", "projected", "secret"}


def _object(required: str, **properties: Any) -> dict[str, Any]:  # noqa: ANN401 - any schema
    """Return the schema of an object with these properties and no others."""
    return {"type": "object", "properties": properties, "required": required.split(), "additionalProperties": False}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


_TEXT = {"type": "string", "minLength": 1}
_LABELS = {"type": "object", "additionalProperties": _TEXT}
_TIME = {"type": "string", "pattern": "^([0-9]+(ms|[smhdwy]))+$"}
_EXPR = {"type": ["string", "integer"]}
_RULE = {
    **_object("expr", record=_TEXT, alert=_TEXT, expr=_EXPR, labels=_LABELS, annotations=_LABELS, **{"for": _TIME}),
    "oneOf": [{"required": ["record"]}, {"required": ["alert"]}],
}
_ENDPOINT = _object(
    "port",
    port=_TEXT,
    path={"type": "string", "pattern": "^/"},
    interval=_TEXT,
    scheme={"enum": ["http", "https"]},
    tlsConfig={"type": "object"},
    authorization=_object("credentials", type=_TEXT, credentials=_object("name key", name=_TEXT, key=_TEXT)),
)
_OURS: dict[str, dict[str, Any]] = {
    "PrometheusRule": _object("groups", groups=_list(_object("name rules", name=_TEXT, rules=_list(_RULE)))),
    "ServiceMonitor": _object(
        "selector endpoints",
        selector=_object("matchLabels", matchLabels=_LABELS),
        podTargetLabels=_list(_TEXT),
        endpoints=_list(_ENDPOINT),
    ),
}
"""Schemas of a `spec`, with the properties that the chart uses."""


def validate(manifest: dict[str, Any]) -> None:
    """Raise ChartError if a manifest does not fit its kind's schema."""
    kind = manifest["kind"]
    try:
        if kind in _OURS:
            jsonschema.validate(manifest["spec"], _OURS[kind])
        else:
            volumes = manifest.get("spec", {}).get("template", {}).get("spec", {}).get("volumes", [])
            for version in _IMAGE_VOLUMES if any("image" in volume for volume in volumes) else KUBERNETES:
                kubernetes_validate.validate(manifest, version, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        place = ".".join(map(str, error.path))
        raise ChartError(f"{name_of(manifest)}: {place}: {error.message[:300]}") from None
    except kubernetes_validate.SchemaNotFoundError as error:
        raise ChartError(f"{name_of(manifest)}: {error.message}") from None


def check_together(manifests: list[dict[str, Any]]) -> None:
    """Raise ChartError if a manifest names something that the others do not make: pods, volumes, settings, ports."""
    names = [name_of(manifest) for manifest in manifests]
    if len(set(names)) != len(names):
        raise ChartError(f"two manifests have the same name: {sorted(names)}")
    pods = list(_pods(manifests))
    for manifest in manifests:
        selector = _selector(manifest)
        if selector and not any(selector.items() <= labels.items() for _, labels, _ in pods):
            raise ChartError(f"{name_of(manifest)}: selects no pod: {selector}")
    for owner, _, spec in pods:
        _check_restricted(owner, spec)
        _check_pod(owner, spec, set(names))


def check_closed(manifests: list[dict[str, Any]]) -> None:
    """Raise ChartError if pods may be reached by, or reach, anybody that is not named, or run an image by its tag."""
    policies = [manifest["spec"] for manifest in manifests if manifest["kind"] == "NetworkPolicy"]
    if not policies or not all(
        set(policy["policyTypes"]) == {"Ingress", "Egress"}
        and all(rule.get("from") for rule in policy["ingress"])
        and all(rule.get("to") for rule in policy["egress"])
        for policy in policies
    ):
        raise ChartError("a NetworkPolicy lets anybody in, or out to anybody")
    for owner, _, spec in _pods(manifests):
        for container in (*spec.get("initContainers", []), *spec["containers"]):
            if "@sha256:" not in container["image"]:
                raise ChartError(f"{owner}: {container['name']}: its image has no digest")
            if "ephemeral-storage" not in container["resources"]["requests"]:
                raise ChartError(f"{owner}: {container['name']}: asks for no ephemeral storage")
        if spec.get("serviceAccountName", "default") == "default":
            raise ChartError(f"{owner}: has no ServiceAccount of its own")


def name_of(manifest: dict[str, Any]) -> str:
    """Kind and name."""
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def _pods(manifests: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, str], dict[str, Any]]]:
    for manifest in manifests:
        if manifest["kind"] in ("Deployment", "Job", "CronJob"):
            spec = manifest["spec"]
            template = (spec["jobTemplate"]["spec"] if manifest["kind"] == "CronJob" else spec)["template"]
            yield name_of(manifest), template["metadata"]["labels"], template["spec"]


def _selector(manifest: dict[str, Any]) -> dict[str, str]:
    spec = manifest.get("spec", {})
    if manifest["kind"] == "Service":
        return dict(spec["selector"])
    if manifest["kind"] in ("Deployment", "PodDisruptionBudget"):
        return dict(spec["selector"]["matchLabels"])
    return dict(spec["podSelector"]["matchLabels"]) if manifest["kind"] == "NetworkPolicy" else {}


def _check_restricted(owner: str, spec: dict[str, Any]) -> None:
    """Pod Security `restricted`: https://kubernetes.io/docs/concepts/security/pod-security-standards/."""
    wrong = [name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    wrong += [f"volume {volume['name']}" for volume in spec["volumes"] if not _VOLUMES & volume.keys()]
    pod = spec["securityContext"]
    wrong += [name for name in ("sysctls", "seLinuxOptions", "windowsOptions", "appArmorProfile") if name in pod]
    for container in (*spec.get("initContainers", []), *spec["containers"]):
        own = container["securityContext"]
        both = {**pod, **own}
        rules = {
            "privileged": not own.get("privileged"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "runAsNonRoot": both.get("runAsNonRoot") is True,
            "runAsUser": both.get("runAsUser") != 0,
            "capabilities": own.get("capabilities") == {"drop": ["ALL"]},
            "seccompProfile": both.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
            "procMount": "procMount" not in own,
            "hostPort": not any("hostPort" in port for port in container.get("ports", [])),
            "lifecycle host": "'host'" not in str(container.get("lifecycle")),
        }
        wrong += [f"{container['name']}: {rule}" for rule, is_kept in rules.items() if not is_kept]
    if wrong:
        raise ChartError(f"{owner}: Pod Security restricted does not allow: {', '.join(wrong)}")


def _check_pod(owner: str, spec: dict[str, Any], made: set[str]) -> None:
    volumes = {volume["name"] for volume in spec["volumes"]}
    mounted = set()
    for container in (*spec.get("initContainers", []), *spec["containers"]):
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        if len(set(mounts)) != len(mounts):
            raise ChartError(f"{owner}: {container['name']}: two volumes at one place")
        mounted |= {mount["name"] for mount in container["volumeMounts"]}
        for source in container.get("envFrom", []):
            if "configMapRef" in source and f"ConfigMap/{source['configMapRef']['name']}" not in made:
                raise ChartError(f"{owner}: {container['name']}: no ConfigMap {source['configMapRef']['name']}")
    if mounted != volumes:
        raise ChartError(f"{owner}: volumes {sorted(volumes)}, mounted {sorted(mounted)}")
    account = spec.get("serviceAccountName", "default")
    if account != "default" and f"ServiceAccount/{account}" not in made:
        raise ChartError(f"{owner}: no ServiceAccount {account}")
