"""The naive service scores as ours does, wherever it has its rows from: its speed is what differs."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest

from lab.bench.redis import redis_server
from lab.naive.app import create_app
from lab.naive.service import in_objects, naive
from lab.reference.bundles import Bundles
from loadtest.processes import ProcessError, Service, ours, publish, running
from loadtest.requests import in_columns, some_bodies
from loadtest.traffic import Traffic
from msd.contract.errors import MsdError


@pytest.fixture(scope="module")
def urls(bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Both services, each with rows from Redis and without."""
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        publish(bundles.fp32, redis)
        services: list[Service] = [
            naive("naive_memory", bundles.fp32, bundles.tiled, 1, None),
            naive("naive_redis", bundles.fp32, bundles.tiled, 2, redis),
            ours("ours_file", bundles.fp32, 1, None),
            ours("ours_redis", bundles.fp32, 2, redis),
        ]
        urls = stack.enter_context(running(services, tmp_path_factory.mktemp("logs")))
        yield {service.name: url for service, url in zip(services, urls, strict=True)}


def _post(url: str, request: bytes) -> httpx.Response:
    """What the generator would send, by a client that reads replies."""
    head, _, body = request.partition(b"\r\n\r\n")
    path = head.split()[1].decode()
    return httpx.post(url + path, content=body, headers={"Content-Type": "application/json"}, trust_env=False)


def test_scores_are_those_of_our_service(urls: dict[str, str], bundles: Bundles) -> None:
    bodies = some_bodies(Traffic(bundles.fp32, 30), 12)
    for own, objects in zip(in_columns(bodies), in_objects(bodies), strict=True):
        replies = [_post(urls[name], own).json()["candidates"] for name in ("ours_file", "ours_redis")]
        found = [_post(urls[name], objects).json()["scores"] for name in ("naive_memory", "naive_redis")]
        for scores in found:
            assert [score["id"] for score in scores] == replies[0]["id"]
            for name in ("pctr", "ecpm"):
                np.testing.assert_allclose([score[name] for score in scores], replies[0][name], rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose([score["pctr"] for score in scores], replies[0]["pctr"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(replies[1]["pctr"], replies[0]["pctr"], rtol=0, atol=1e-6)
        assert len(set(replies[0]["pctr"])) > 1


def test_unknown_user_and_item_have_scores(urls: dict[str, str]) -> None:
    body = json.dumps({"user_id": "nobody", "candidates": {"id": ["nothing", "i000001"], "bid": [1.0, 2.0]}}).encode()
    expected = _post(urls["ours_file"], in_columns([body])[0]).json()["candidates"]["pctr"]
    for name in ("naive_memory", "naive_redis"):
        scores = _post(urls[name], in_objects([body])[0]).json()["scores"]
        np.testing.assert_allclose([score["pctr"] for score in scores], expected, rtol=0, atol=1e-5)


def test_missing_and_unknown_parts_are_errors(tmp_path: Path) -> None:
    for environ, message in (
        ({}, "NAIVE_BUNDLE: not set"),
        ({"NAIVE_BUNDLE": "nowhere", "NAIVE_GRAPH": "x"}, "nowhere: no bundle here"),
    ):
        with pytest.raises(MsdError, match=message):
            create_app(environ)
    with (
        pytest.raises(ProcessError, match=r"(?s)broken: ended with exit code \d+; it said: .*no bundle here"),
        running([ours("broken", tmp_path, 1, None)], tmp_path),
    ):
        pass
