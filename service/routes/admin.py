"""Admin routes: swap, roll back, experiment.

They move the pointers and write the file that the service follows; `/v1/model` shows the result. File access runs in
threads, because a file system may block.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import structlog
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from msd.contract.errors import MsdError, first_fault
from msd.contract.request import InvalidRequest, load_json
from service.deployment.bundle_folder import (
    CURRENT,
    BundleName,
    Experiment,
    SourceError,
    is_bundle,
    named_bundle,
    point_to,
    read_experiment,
    remove_experiment,
    roll_back,
    write_experiment,
)
from service.errors import DESCRIPTIONS, BodyTooLarge, Conflict, ErrorReply
from service.http.access import KEY, access_of
from service.http.body import read_json_body
from service.scoring.deployment import Serving
from service.settings import Settings

_Body = TypeVar("_Body", bound=BaseModel)
_MAX_BYTES = 2**16
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": DESCRIPTIONS[status]} for status in (409, 422)
}
_BODY_ERRORS = _ERRORS | {
    status: {"model": ErrorReply, "description": DESCRIPTIONS[status]} for status in (400, 408, 413, 415)
}


class SwapOrder(BaseModel):
    """The new current bundle."""

    model_config = ConfigDict(extra="forbid", strict=True)

    bundle: Annotated[BundleName, Field(description="Name of a folder in the folder of bundles.")]


class Accepted(BaseModel):
    """The pointer was moved. The bundle is served once it has been verified, loaded and proved."""

    current: str = Field(description="Target of the pointer: a folder's name, or with Redis a bundle ID.")
    generation: int = Field(description="Generation served until then.")


class ExperimentState(BaseModel):
    """The wanted experiment, null if there is none. `generation` is that of the serving deployment."""

    experiment: Experiment | None
    generation: int


def admin_routes(settings: Settings, serving: Serving) -> APIRouter:
    """Return the routes. Access is checked before."""
    router = APIRouter(prefix="/v1/admin", tags=["admin"])
    swap_order, wanted_experiment = _body_of(SwapOrder), _body_of(Experiment)

    @router.post(
        "/swap",
        status_code=202,
        responses=_BODY_ERRORS,
        summary="Serve another bundle",
        openapi_extra=_takes(SwapOrder),
    )
    def swap(request: Request, order: Annotated[SwapOrder, Depends(swap_order)]) -> Accepted:
        with _deciding(request, "swap", bundle=order.bundle):
            folder = _bundles(settings)
            if settings.store == "redis":
                raise SourceError("the bundle is chosen by Redis: run `msd publish`, or roll back")
            point_to(folder, order.bundle)
        return Accepted(current=order.bundle, generation=serving.current.generation)

    @router.post("/rollback", status_code=202, responses=_ERRORS, summary="Serve the previous bundle")
    def rollback(request: Request) -> Accepted:
        with _deciding(request, "rollback"):
            current = _rolled_back(settings)
        return Accepted(current=current, generation=serving.current.generation)

    @router.get("/experiment", responses=_ERRORS, summary="Read the experiment")
    def experiment() -> ExperimentState:
        with _possible():
            found = read_experiment(_bundles(settings))
        return ExperimentState(experiment=found, generation=serving.current.generation)

    @router.put(
        "/experiment",
        status_code=202,
        responses=_BODY_ERRORS,
        summary="Start or change the experiment",
        openapi_extra=_takes(Experiment),
    )
    def put_experiment(request: Request, wanted: Annotated[Experiment, Depends(wanted_experiment)]) -> ExperimentState:
        with _deciding(request, "experiment", arms=[arm.name for arm in wanted.arms]):
            folder = _bundles(settings)
            for name in wanted.bundles - {CURRENT}:
                named_bundle(folder, name)
            write_experiment(folder, wanted)
        return ExperimentState(experiment=wanted, generation=serving.current.generation)

    @router.delete("/experiment", status_code=202, responses=_ERRORS, summary="End the experiment")
    def delete_experiment(request: Request) -> ExperimentState:
        with _deciding(request, "experiment_ended"):
            remove_experiment(_bundles(settings))
        return ExperimentState(experiment=None, generation=serving.current.generation)

    return router


@contextmanager
def _possible() -> Iterator[None]:
    try:
        yield
    except MsdError as error:
        raise Conflict(str(error)) from error


@contextmanager
def _deciding(request: Request, what: str, **about: object) -> Iterator[None]:
    with _possible():
        yield
    log, request_id = structlog.get_logger("msd.admin"), access_of(request.scope).request_id
    log.info(what, key=request.scope.get(KEY), request_id=request_id, **about)


def _bundles(settings: Settings) -> Path:
    folder = settings.bundle
    if not folder.is_dir() or is_bundle(folder):
        raise SourceError("this service serves a single bundle; set MSD_BUNDLE to a folder of bundles to choose from")
    return folder


def _rolled_back(settings: Settings) -> str:
    if settings.store != "redis":
        return roll_back(_bundles(settings))
    from service.deployment.redis_pointer import roll_back_redis

    assert settings.redis_url is not None, "settings with a Redis store have its address"
    return roll_back_redis(settings.redis_url.get_secret_value())


def _body_of(form: type[_Body]) -> Callable[[Request], Awaitable[_Body]]:
    async def parsed(request: Request) -> _Body:
        body = await read_json_body(request.scope, request.receive)
        if len(body) > _MAX_BYTES:
            raise BodyTooLarge(f"the body has more than {_MAX_BYTES} bytes, which is the limit of admin routes")
        document = load_json(body)
        try:
            return form.model_validate(document)
        except ValidationError as error:
            place, words, _ = first_fault(error)
            raise InvalidRequest(words, place or None) from None

    return parsed


def _takes(form: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI description of a body that is parsed here."""
    schema = form.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
