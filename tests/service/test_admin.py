"""Deciding over HTTP what is served: with a key for that alone, by names in the folder of bundles alone."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from msd.contract.bundle import Bundle
from service.deployment.bundle_folder import CURRENT, EXPERIMENT
from tests.service.api_keys import KEYS, write_keys
from tests.service.bundle_folders import two_bundles
from tests.service.live import LiveService, live_service, wait_until

ADMIN = {"x-api-key": KEYS["ops"]}
ARMS: list[dict[str, Any]] = [
    {"name": "champion", "bundle": "current", "weight": 1},
    {"name": "next", "bundle": "b", "weight": 1},
]


@pytest.fixture(scope="module")
def bundles(bundle: Bundle, other_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles: `a`, the current one, `b`, and `out`, which leads elsewhere."""
    folder = two_bundles(tmp_path_factory.mktemp("source"), bundle, other_bundle)
    (folder / "out").symlink_to(bundle.folder)
    return folder


@pytest.fixture(scope="module")
def running(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    folder = tmp_path_factory.mktemp("admin")
    write_keys(folder / "keys.json", "ads", "ops")
    with live_service(bundles, folder, keys_file=folder / "keys.json") as service:
        yield service


def ask(service: LiveService, method: str, path: str, document: object = None, **options: Any) -> httpx.Response:  # noqa: ANN401
    with service.client(headers=ADMIN) as client:
        return client.request(method, f"/v1/admin/{path}", json=document, **options)


def model(service: LiveService) -> dict[str, Any]:
    with service.client(headers=ADMIN) as client:
        found: dict[str, Any] = client.get("/v1/model").json()
        return found


def test_swapping_and_rolling_back(running: LiveService, bundles: Path) -> None:
    assert ask(running, "POST", "rollback").status_code == 409
    before = model(running)["lineup"]["generation"]
    swapped = ask(running, "POST", "swap", {"bundle": "b"})
    assert (swapped.status_code, swapped.json()) == (202, {"current": "b", "generation": before})
    wait_until(lambda: model(running)["model_version"] == "test-1")
    assert ask(running, "POST", "rollback").json()["current"] == "a"
    wait_until(lambda: model(running)["model_version"] == "test-0")
    (swap,) = [line for line in running.log() if line["event"] == "swap"]
    assert (swap["key"], swap["bundle"]) == ("ops", "b")


def test_experiment_from_its_beginning_to_its_end(running: LiveService, bundles: Path) -> None:
    wanted = {"salt": "s", "arms": ARMS, "shadow": []}
    assert ask(running, "GET", "experiment").json()["experiment"] is None
    put = ask(running, "PUT", "experiment", wanted)
    assert (put.status_code, put.json()["experiment"]) == (202, wanted)
    wait_until(lambda: len(model(running)["lineup"]["arms"]) == 2)
    assert ask(running, "GET", "experiment").json()["experiment"] == wanted
    assert ask(running, "DELETE", "experiment").status_code == 202
    wait_until(lambda: len(model(running)["lineup"]["arms"]) == 1)
    assert not (bundles / EXPERIMENT).exists()


@pytest.mark.parametrize(
    ("method", "path", "document", "status", "field"),
    [
        ("POST", "swap", {"bundle": "../a"}, 422, "bundle"),
        ("POST", "swap", {"bundle": "/etc"}, 422, "bundle"),
        ("POST", "swap", {"bundle": "a\0"}, 422, "bundle"),
        ("POST", "swap", {"bundle": 5}, 422, "bundle"),
        ("POST", "swap", {}, 422, "bundle"),
        ("POST", "swap", {"bundle": "a", "force": True}, 422, "force"),
        ("POST", "swap", {"bundle": "out"}, 409, None),
        ("POST", "swap", {"bundle": "current"}, 409, None),
        ("POST", "swap", {"bundle": "nowhere"}, 409, None),
        ("PUT", "experiment", {"salt": "s", "arms": []}, 422, "arms"),
        ("PUT", "experiment", {"salt": "s", "arms": [{**ARMS[0], "bundle": "out"}]}, 409, None),
        ("PUT", "experiment", {"salt": "s", "arms": [ARMS[0], ARMS[0]]}, 422, None),
    ],
)
def test_invalid_admin_request_changes_nothing(
    running: LiveService, bundles: Path, method: str, path: str, document: object, status: int, field: str | None
) -> None:
    pointer = os.readlink(bundles / CURRENT)
    answer = ask(running, method, path, document)

    assert (answer.status_code, answer.json()["error"]["field"]) == (status, field)
    assert os.readlink(bundles / CURRENT) == pointer
    assert not (bundles / EXPERIMENT).exists()


def test_malformed_bodies_are_refused(running: LiveService) -> None:
    cases = [(b"{", "application/json", 400), (b"{}", "text/plain", 415), (b"", "", 415)]
    cases += [(b'{"bundle": "a", "bundle": "b"}', "application/json", 400), (b" " * 70_000, "application/json", 413)]
    for content, kind, status in cases:
        with running.client(headers={**ADMIN, "content-type": kind}) as client:
            assert client.post("/v1/admin/swap", content=content).status_code == status


def test_admin_routes_need_keys_and_a_folder_of_bundles(service: LiveService, bundle: Bundle, tmp_path: Path) -> None:
    with service.client() as client:
        assert client.post("/v1/admin/rollback").status_code == 404
    write_keys(tmp_path / "keys.json", "ops")
    with live_service(bundle.folder, tmp_path, keys_file=tmp_path / "keys.json") as running:
        for method, path, document in (("POST", "swap", {"bundle": "b"}), ("GET", "experiment", None)):
            answer = ask(running, method, path, document)
            assert answer.status_code == 409
            assert "serves a single bundle" in answer.json()["error"]["message"]
