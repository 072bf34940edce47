"""Manifests against the schemas of Kubernetes, strictly, and whether they fit each other.

Of the Prometheus operator's kinds it has none: they are held against small ones of ours.
"""

from collections.abc import Iterator
from typing import Any

import jsonschema
import kubernetes_validate

from tests.chart.helm import ChartError

KUBERNETES = ("1.30", "1.37")
"""The oldest that the chart is for, and the newest of which the schemas are known."""
_IMAGE_VOLUMES = ("1.33", "1.37")
_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
_LABELS = {"type": "object", "additionalProperties": {"type": "string"}}
_KEY = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "key": {"type": "string"}},
    "required": ["name", "key"],
    "additionalProperties": False,
}
_RULE = {
    "type": "object",
    "properties": {
        "record": {"type": "string"},
        "alert": {"type": "string"},
        "expr": {"type": ["string", "integer"]},
        "for": {"type": "string", "pattern": "^([0-9]+(ms|[smhdwy]))+$"},
        "keep_firing_for": {"type": "string"},
        "labels": _LABELS,
        "annotations": _LABELS,
    },
    "required": ["expr"],
    "oneOf": [{"required": ["record"]}, {"required": ["alert"]}],
    "additionalProperties": False,
}
_GROUP = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "interval": {"type": "string"},
        "rules": {"type": "array", "items": _RULE, "minItems": 1},
    },
    "required": ["name", "rules"],
    "additionalProperties": False,
}
_ENDPOINT = {
    "type": "object",
    "properties": {
        "port": {"type": "string"},
        "path": {"type": "string", "pattern": "^/"},
        "interval": {"type": "string"},
        "scheme": {"enum": ["http", "https"]},
        "tlsConfig": {"type": "object"},
        "authorization": {
            "type": "object",
            "properties": {"type": {"type": "string"}, "credentials": _KEY},
            "required": ["credentials"],
            "additionalProperties": False,
        },
    },
    "required": ["port"],
    "additionalProperties": False,
}
OURS: dict[str, dict[str, Any]] = {
    "PrometheusRule": {
        "type": "object",
        "properties": {"groups": {"type": "array", "items": _GROUP, "minItems": 1}},
        "required": ["groups"],
        "additionalProperties": False,
    },
    "ServiceMonitor": {
        "type": "object",
        "properties": {
            "selector": {
                "type": "object",
                "properties": {"matchLabels": _LABELS},
                "required": ["matchLabels"],
                "additionalProperties": False,
            },
            "podTargetLabels": {"type": "array", "items": {"type": "string"}},
            "endpoints": {"type": "array", "items": _ENDPOINT, "minItems": 1},
        },
        "required": ["selector", "endpoints"],
        "additionalProperties": False,
    },
}
"""Schemas of a `spec`, of what the chart uses of these kinds."""


def validate(manifest: dict[str, Any]) -> None:
    """Raises ChartError when a manifest is not of its kind, or has something that the kind has not."""
    kind = manifest["kind"]
    try:
        if kind in OURS:
            jsonschema.validate(manifest["spec"], OURS[kind])
        else:
            for version in _IMAGE_VOLUMES if _has_image_volume(manifest) else KUBERNETES:
                kubernetes_validate.validate(manifest, version, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        place = ".".join(map(str, error.path))
        raise ChartError(f"{name_of(manifest)}: {place}: {error.message[:300]}") from None
    except kubernetes_validate.SchemaNotFoundError as error:
        raise ChartError(f"{name_of(manifest)}: {error.message}") from None


def _has_image_volume(manifest: dict[str, Any]) -> bool:
    volumes = manifest.get("spec", {}).get("template", {}).get("spec", {}).get("volumes", [])
    return any("image" in volume for volume in volumes)


def check_together(manifests: list[dict[str, Any]]) -> None:
    """Raises ChartError when one names something that the others do not make: pods, volumes, settings, ports."""
    names = [name_of(one) for one in manifests]
    if len(set(names)) != len(names):
        raise ChartError(f"two are called the same: {sorted(names)}")
    pods = list(_pods(manifests))
    for manifest in manifests:
        selector = _selector(manifest)
        if selector and not any(selector.items() <= labels.items() for _, labels, _ in pods):
            raise ChartError(f"{name_of(manifest)}: selects no pod: {selector}")
    for owner, _, spec in pods:
        _check_restricted(owner, spec)
        _check_pod(owner, spec, {name_of(one) for one in manifests})


def check_closed(manifests: list[dict[str, Any]]) -> None:
    """Raises ChartError where pods may be reached by, or reach, whoever is not named; or run an image by its tag."""
    policies = [one["spec"] for one in manifests if one["kind"] == "NetworkPolicy"]
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
    for one in manifests:
        if one["kind"] in ("Deployment", "Job"):
            template = one["spec"]["template"]
            yield name_of(one), template["metadata"]["labels"], template["spec"]


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
    wrong += [f"volume {one['name']}" for one in spec["volumes"] if not _VOLUMES & one.keys()]
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
            "lifecycle host": not any(
                "host" in one.get("httpGet", {}) for one in container.get("lifecycle", {}).values()
            ),
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
