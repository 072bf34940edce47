"""The scoring service that tutorials build: FastAPI, pydantic objects, an MGET, tiled features, a default session.

The yardstick of `msd lab bench`: as fast as that recipe is, with nothing slowed down. It is run by
`uvicorn --factory lab.naive.app:app` with NAIVE_BUNDLE, NAIVE_GRAPH and, for rows from there, NAIVE_REDIS.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import onnxruntime
from fastapi import FastAPI
from pydantic import BaseModel

from lab.naive.rows import MemoryValues, RedisValues, naive_rows
from msd.contract.bundle import open_bundle
from msd.contract.errors import MsdError


class Candidate(BaseModel):
    """An ad to score."""

    id: str
    bid: float | None = None


class ScoreRequest(BaseModel):
    """One user and his candidates."""

    user_id: str
    candidates: list[Candidate]


class Score(BaseModel):
    """An ad and its click probability."""

    id: str
    pctr: float
    ecpm: float | None = None


class ScoreResponse(BaseModel):
    """In the request's order."""

    scores: list[Score]


def create_app(environ: Mapping[str, str]) -> FastAPI:
    """Return the service over a bundle's rows and an fp32 graph. Raises MsdError if one is missing."""
    try:
        folder, graph = Path(environ["NAIVE_BUNDLE"]), Path(environ["NAIVE_GRAPH"])
    except KeyError as error:
        raise MsdError(f"{error.args[0]}: not set") from None
    url = environ.get("NAIVE_REDIS")
    bundle = open_bundle(folder, rows=url is None)
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in session.get_inputs()]
    values = MemoryValues(bundle) if url is None else RedisValues(bundle.bundle_id, url)
    rows = naive_rows(bundle, values, names)
    service = FastAPI(title="naive")

    @service.get("/health")
    async def health() -> dict[str, bool]:
        return {"ready": True}

    @service.post("/score")
    async def score(request: ScoreRequest) -> ScoreResponse:
        inputs = await rows.inputs(request.user_id, [candidate.id for candidate in request.candidates], names)
        (pctr,) = session.run(["pctr"], inputs)
        return ScoreResponse(
            scores=[
                Score(id=ad.id, pctr=value, ecpm=None if ad.bid is None else 1_000 * ad.bid * value)
                for ad, value in zip(request.candidates, pctr.tolist(), strict=True)
            ]
        )

    return service


def app() -> FastAPI:
    """Return the app, in each of uvicorn's workers."""
    return create_app(os.environ)
