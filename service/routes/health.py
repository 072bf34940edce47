"""Operators' routes: liveness, readiness, what is served, metrics."""

import asyncio
from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

import native
from msd.contract.pricing import Pricing
from msd.contract.schema import SIDES
from service.deployment.readiness import Readiness
from service.errors import Overloaded, without_places
from service.runtimes.runtime import Engine
from service.scoring.deployment import Deployment, Serving
from service.scoring.model import Model
from service.telemetry.metrics import Metrics

METRICS_TYPE = "text/plain; version=1.0.0; charset=utf-8"
_MOST_SCRAPES = 8


class Live(BaseModel):
    """Whether the process makes progress, or has to be restarted."""

    status: Literal["live", "hung"]
    hangs: dict[str, str] = Field(description="Seconds without progress, by part; empty if nothing hangs.")


class Ready(BaseModel):
    """Whether requests should be sent here, and if not, what is missing."""

    ready: bool
    draining: bool
    missing: dict[str, str] = Field(description="Reason by part; empty if nothing is missing.")
    loading: dict[str, str] = Field(
        description="Effect on scores by part that is still loading. Readiness does not wait for these parts."
    )


class ServedFeature(BaseModel):
    """A feature that requests may set."""

    name: str
    kind: Literal["categorical", "bag", "numeric"]


class ServedArm(BaseModel):
    """A named bundle."""

    name: str
    bundle_id: str
    model_version: str
    share: float = Field(description="Share of the users; 0 for a shadow.")


class ServedLineup(BaseModel):
    """The bundles that are served together."""

    generation: int = Field(description="Generation of the deployment; each swap increments it.")
    refused: bool = Field(description="Whether the wanted deployment was rejected; the log has the reason.")
    arms: list[ServedArm]
    shadow: list[ServedArm]


class ServedModel(BaseModel):
    """The served bundle (the first arm's if there are several), and its runtime."""

    bundle_id: str
    model_version: str
    created_at: float = Field(description="Unix seconds.")
    heads: list[str]
    pricing: dict[Pricing, list[str]] = Field(description="By pricing, the heads whose product multiplies the bid.")
    features: dict[Literal["user", "item", "context"], list[ServedFeature]]
    history_length: int
    item_text: str | None = Field(description="Template of item texts; build the text of a cold ad the same way.")
    encodes_texts: bool = Field(description="Whether the bundle has an encoder for the texts of cold ads.")
    runtime: Engine = Field(description="Model runtime, as read back after loading.")
    native: str = Field(description="CPU instructions that the native core uses.")
    store: str
    max_candidates: int
    metrics: dict[str, Any]
    lineup: ServedLineup


def health_routes(serving: Serving, readiness: Readiness, max_candidates: int) -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.get(
        "/health/live",
        summary="Liveness",
        responses={
            503: {"model": Live, "description": "The event loop or all scoring threads hang: restart the service."}
        },
    )
    async def live(response: Response) -> Live:
        hangs = readiness.hangs()
        response.status_code = 503 if hangs else 200
        return Live(status="hung" if hangs else "live", hangs=dict(hangs))

    @router.get(
        "/health/ready",
        summary="Readiness",
        responses={503: {"model": Ready, "description": "Not ready; the body says what is missing."}},
    )
    async def ready(response: Response) -> Ready:
        is_ready, missing = readiness.is_ready, {**readiness.missing, **readiness.hangs()}
        response.status_code = 200 if is_ready else 503
        if not is_ready:
            # A load balancer can then connect to another instance.
            response.headers["connection"] = "close"
        missing = {part: without_places(reason) for part, reason in missing.items()}
        return Ready(ready=is_ready, draining=readiness.draining, missing=missing, loading=dict(readiness.loading))

    @router.get("/v1/model", summary="Describe the served bundles")
    async def served_model() -> ServedModel:
        return _served_model(serving.current, max_candidates, serving.is_refused)

    return router


def metrics_route(metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["operations"])
    turn, waiting = asyncio.Lock(), list[None]()

    @router.get(
        "/metrics",
        summary="Metrics in Prometheus's text format",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "All metric families."}
        },
    )
    async def exposition() -> Response:
        # Probes need the loop, and their own connections, meanwhile.
        if len(waiting) >= _MOST_SCRAPES:
            raise Overloaded("too many scrapes at once; retry")
        waiting.append(None)
        try:
            async with turn:
                return Response(await asyncio.to_thread(metrics.exposition), media_type=METRICS_TYPE)
        finally:
            waiting.pop()

    return router


def _served_model(deployment: Deployment, max_candidates: int, is_refused: bool) -> ServedModel:
    model = deployment.champion
    manifest = model.bundle.manifest
    return ServedModel(
        bundle_id=manifest.bundle_id,
        model_version=manifest.model_version,
        created_at=manifest.created_at,
        heads=list(manifest.heads),
        pricing={pricing: list(heads) for pricing, heads in manifest.formula.items()},
        features={
            side: [ServedFeature(name=name, kind=field.kind) for name, field in model.schema.settable[side].items()]
            for side in SIDES
        },
        item_text=model.schema.item_text,
        encodes_texts=model.bundle.encoder_identity is not None,
        history_length=model.schema.history.length,
        runtime=model.engine,
        native=native.INSTRUCTIONS,
        store=model.store.name,
        max_candidates=max_candidates,
        metrics=manifest.metrics,
        lineup=ServedLineup(
            generation=deployment.generation,
            refused=is_refused,
            arms=[_served_arm(arm.name, arm.model, arm.share) for arm in deployment.arms],
            shadow=[_served_arm(shadow.name, shadow.model, 0.0) for shadow in deployment.shadows],
        ),
    )


def _served_arm(name: str, model: Model, share: float) -> ServedArm:
    return ServedArm(name=name, bundle_id=model.bundle.bundle_id, model_version=model.version, share=share)
