"""Routes of the Open Inference Protocol except inference: metadata, liveness and readiness of server and model."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from service.deployment.readiness import Readiness
from service.routes.oip.inputs import inputs_of
from service.routes.oip.tensors import OipError
from service.scoring.deployment import Deployment, Serving
from service.scoring.model import Model

MODEL = "msd"
"""The name of the one model; its versions are the served bundles' model versions."""
ID, ECPM = "id", "ecpm"
_ANY = -1
_UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"model": OipError, "description": "Unknown model or version."}}


class TensorParameters(BaseModel):
    optional: bool


class TensorMetadata(BaseModel):
    """Metadata of a tensor; −1 is any size."""

    name: str
    datatype: str
    shape: list[int]
    parameters: TensorParameters | None = None


class ModelMetadata(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(BaseModel):
    name: str
    version: str
    extensions: list[str]


class ServerLive(BaseModel):
    """Whether the process makes progress."""

    live: bool


class ServerReady(BaseModel):
    """Whether requests should be sent here."""

    ready: bool


class ModelReady(ServerReady):
    """Whether requests for the model should be sent here."""

    name: str


def outputs_of(heads: Sequence[str]) -> list[tuple[str, str]]:
    """Return names and datatypes of all outputs of a model with these heads."""
    return [(ID, "BYTES"), *((head, "FP32") for head in heads), (ECPM, "FP64")]


def versions_of(deployment: Deployment) -> dict[str, Model]:
    """Return the models that score users, by version; the first of several with one version."""
    found: dict[str, Model] = {}
    for arm in deployment.arms:
        found.setdefault(arm.model.version, arm.model)
    return found


def check_served(deployment: Deployment, name: str, version: str | None) -> Model:
    """Return the model of this name and version, the first arm's without a version. Raises HTTPException, 404."""
    if name != MODEL:
        raise HTTPException(404, f"there is no model {name[:80]!r}; the one here is {MODEL!r}")
    if version is None:
        return deployment.champion
    versions = versions_of(deployment)
    if version not in versions:
        raise HTTPException(404, f"version {version[:80]!r} is not served; there are: {', '.join(versions)}")
    return versions[version]


def oip_routes(serving: Serving, readiness: Readiness, server_version: str) -> APIRouter:
    router = APIRouter(prefix="/v2", tags=["open inference protocol"])
    not_now: dict[int | str, dict[str, Any]] = {503: {"model": ServerReady, "description": "Not ready."}}

    @router.get("", summary="Server metadata")
    async def server() -> ServerMetadata:
        return ServerMetadata(name="msd-ctr", version=server_version, extensions=["binary_tensor_data"])

    hung: dict[int | str, dict[str, Any]] = {
        503: {"model": ServerLive, "description": "It hangs: restart the service."}
    }

    @router.get("/health/live", summary="Liveness", responses=hung)
    async def live(response: Response) -> ServerLive:
        is_live = not readiness.hangs()
        response.status_code = 200 if is_live else 503
        return ServerLive(live=is_live)

    @router.get("/health/ready", summary="Readiness", responses=not_now)
    async def ready(response: Response) -> ServerReady:
        return ServerReady(ready=_ready(readiness, response))

    @router.get("/models/{name}", summary="Model metadata: inputs and outputs", responses=_UNKNOWN)
    async def model(name: str) -> ModelMetadata:
        return _metadata_of(serving.current, name, None)

    @router.get("/models/{name}/versions/{version}", summary="Metadata of a model version", responses=_UNKNOWN)
    async def model_version(name: str, version: str) -> ModelMetadata:
        return _metadata_of(serving.current, name, version)

    @router.get("/models/{name}/ready", summary="Readiness of the model", responses=_UNKNOWN | not_now)
    async def model_ready(name: str, response: Response) -> ModelReady:
        check_served(serving.current, name, None)
        return ModelReady(name=name, ready=_ready(readiness, response))

    @router.get(
        "/models/{name}/versions/{version}/ready", summary="Readiness of a model version", responses=_UNKNOWN | not_now
    )
    async def version_ready(name: str, version: str, response: Response) -> ModelReady:
        check_served(serving.current, name, version)
        return ModelReady(name=name, ready=_ready(readiness, response))

    return router


def _ready(readiness: Readiness, response: Response) -> bool:
    if not readiness.is_ready:
        response.status_code = 503
        # Closing lets the client reconnect to an instance that is ready.
        response.headers["connection"] = "close"
    return readiness.is_ready


def _metadata_of(deployment: Deployment, name: str, version: str | None) -> ModelMetadata:
    model = check_served(deployment, name, version)
    return ModelMetadata(
        name=name,
        versions=list(versions_of(deployment)) if version is None else [version],
        platform=f"{model.engine.name}_onnx",
        inputs=[
            TensorMetadata(
                name=entry.name,
                datatype=entry.datatypes[0],
                shape=[_ANY if entry.is_list else 1],
                parameters=TensorParameters(optional=entry.is_optional),
            )
            for entry in inputs_of(model.schema)
        ],
        outputs=[
            TensorMetadata(name=name, datatype=datatype, shape=[_ANY])
            for name, datatype in outputs_of(model.bundle.manifest.heads)
        ],
    )
