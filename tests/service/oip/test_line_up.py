"""Requests as tensors beside all that other requests go through: arms of an experiment, metrics, the request log."""

import json
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

from msd.contract.bundle import Bundle
from service.deployment.bundle_folder import EXPERIMENT
from tests.bundles.factory import AT
from tests.service.live import LiveService, live_service
from tests.service.request_log.log import awaited, connected
from tests.service.test_swap import point

ARMS = {"test-0": "champion", "test-1": "next"}
IDS = [f"i{number}" for number in range(40)]


class Split(NamedTuple):
    """A service of two arms, and its log."""

    service: LiveService
    log: Path


@pytest.fixture(scope="module")
def split(bundle: Bundle, other_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Split]:
    """Half of the users each, everything logged at once."""
    folder = tmp_path_factory.mktemp("split")
    bundles = folder / "bundles"
    copytree(bundle.folder, bundles / "a")
    copytree(other_bundle.folder, bundles / "b")
    arms = [{"name": "champion", "bundle": "current", "weight": 1}, {"name": "next", "bundle": "b", "weight": 1}]
    (bundles / EXPERIMENT).write_text(json.dumps({"salt": "s", "arms": arms}))
    point(bundles, "a")
    settings: dict[str, Any] = {"log_dir": folder / "log", "log_sample": 1, "log_flush_seconds": 0.2}
    with live_service(bundles, folder, **settings) as service:
        connected(service)
        yield Split(service, folder / "log")


def asked(client: httpx.Client, user: str, version: str = "", **more: object) -> httpx.Response:
    """Scores as tensors, by a version if one is named."""
    inputs = [
        {"name": "user_id", "shape": [1], "datatype": "BYTES", "data": [user]},
        {"name": "at", "shape": [1], "datatype": "FP64", "data": [AT]},
        {"name": "candidates.id", "shape": [len(IDS)], "datatype": "BYTES", "data": IDS},
    ]
    path = f"/v2/models/msd{version and f'/versions/{version}'}/infer"
    return client.post(path, json={"inputs": inputs, **more})


def test_each_user_is_scored_by_his_own_version_and_no_other(split: Split) -> None:
    seen = set()
    with split.service.client() as client:
        assert client.get("/v2/models/msd").json()["versions"] == list(ARMS)
        for user in (f"u{number}" for number in range(12)):
            answer = asked(client, user).json()
            own = answer["model_version"]
            (other,) = set(ARMS) - {own}
            refused = asked(client, user, other)

            assert answer["parameters"]["arm"] == ARMS[own]
            assert asked(client, user, own).json()["outputs"] == answer["outputs"]
            assert (refused.status_code, refused.json()["error"]) == (
                404,
                f"the running experiment scores this user with version {own!r} alone",
            )
            seen.add(own)
    assert seen == set(ARMS)


def test_it_is_counted_and_logged_as_the_request_that_it_stands_for(split: Split) -> None:
    ok = 'msd_requests_total{code="200"}'
    before = split.service.metric(ok)
    with split.service.client() as client:
        answer = asked(client, "u3", id="tensors-1")
        assert client.post("/v2/models/msd/infer", json={}).status_code == 400

    record = awaited(split.log, ["tensors-1"])["tensors-1"]

    assert split.service.metric(ok) == before + 1
    assert answer.headers["x-request-id"] == answer.json()["id"] == "tensors-1"
    assert answer.headers["server-timing"].startswith("parse;dur=")
    assert json.loads(record.request) == {"user_id": "u3", "at": AT, "candidates": {"id": IDS}}
    pctr = next(one["data"] for one in answer.json()["outputs"] if one["name"] == "pctr")
    assert record.scores[record.heads.index("pctr")].tobytes() == np.array(pctr, np.float32).tobytes()
