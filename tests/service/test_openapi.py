"""The service's description of itself matches what it does, and loads without any other host.

`python -m tests.service.test_openapi` writes docs/openapi.json: the document of a service with all its routes, without
what depends on its bundle.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import move
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from schemathesis import GenerationMode, checks
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks as openapi_checks

from tests.bundles.factory import build_bundle
from tests.service.api_keys import KEYS, write_keys
from tests.service.bundle_folders import point
from tests.service.live import ROOT, LiveService, live_service

PUBLISHED = ROOT / "docs" / "openapi.json"
CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.negative_data_rejection,
]


@contextmanager
def whole_service(folder: Path) -> Iterator[LiveService]:
    """A service with every route and with keys, over a folder of bundles."""
    bundles = folder / "bundles"
    bundles.mkdir()
    move(build_bundle(folder / "made").folder, bundles / "a")
    point(bundles, "a")
    keys = folder / "keys.json"
    write_keys(keys, "ads", "ops")
    with live_service(
        bundles, folder, keys_file=keys, live="on", catalogue="on", state_dir=folder / "states"
    ) as running:
        yield running


def published(service: LiveService) -> str:
    with service.client(headers={"X-Api-Key": KEYS["ads"]}) as client:
        document: dict[str, Any] = client.get("/openapi.json").json()
    del document["paths"]["/v1/score"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "version":
                    parameter["schema"].pop("enum", None)
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    with whole_service(tmp_path_factory.mktemp("whole")) as running:
        yield running


@pytest.mark.parametrize(
    ("paths", "key", "mode", "examples"),
    [
        ("^/v1/score$", "ads", GenerationMode.POSITIVE, 45),
        ("^/v1/score$", "ads", GenerationMode.NEGATIVE, 45),
        ("^/(health|metrics|v1/model)", "ads", GenerationMode.POSITIVE, 20),
        ("/infer$", "ads", GenerationMode.POSITIVE, 20),
        ("/infer$", "ads", GenerationMode.NEGATIVE, 20),
        ("^/v2((?!infer).)*$", "ads", GenerationMode.POSITIVE, 28),
        ("^/v1/events$", "ads", GenerationMode.POSITIVE, 24),
        ("^/v1/events$", "ads", GenerationMode.NEGATIVE, 30),
        ("^/v1/items", "ads", GenerationMode.POSITIVE, 24),
        ("^/v1/items", "ads", GenerationMode.NEGATIVE, 24),
        ("^/v1/openrtb$", "ads", GenerationMode.POSITIVE, 16),
        ("^/v1/openrtb$", "ads", GenerationMode.NEGATIVE, 30),
        ("^/v1/admin/", "ops", GenerationMode.POSITIVE, 25),
        ("^/v1/admin/", "ops", GenerationMode.NEGATIVE, 50),
        # Without a key, each route answers with the 401 that it documents.
        ("^/v1/", "", GenerationMode.POSITIVE, 14),
        ("^/v2$|^/v2/models", "", GenerationMode.POSITIVE, 14),
    ],
)
def test_every_answer_is_documented(
    whole: LiveService, paths: str, key: str, mode: GenerationMode, examples: int
) -> None:
    headers = {"X-Api-Key": KEYS[key]} if key else {}
    document = schemathesis.openapi.from_url(f"{whole.url}/openapi.json", headers={"X-Api-Key": KEYS["ads"]})
    found = document.include(path_regex=paths).get_all_operations()
    operations = [result.ok() for result in found if isinstance(result, Ok)]
    assert operations
    for operation in operations:

        @seed(0)
        @settings(max_examples=examples // len(operations), suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def validate(case: Any) -> None:  # noqa: ANN401
            # Generated keys would be sent in place of ours.
            for name in [name for name in case.headers or {} if name.lower() in ("authorization", "x-api-key")]:
                del case.headers[name]
            deadline = str((case.headers or {}).get("X-Deadline-Ms", ""))
            if deadline.isascii() and deadline.isdigit() and 0 < int(deadline) < 1_000:
                del case.headers["X-Deadline-Ms"]  # a valid deadline that is too short
            answer = case.call(headers=headers)
            case.validate_response(answer, checks=CHECKS if key else CHECKS[:-1])
            assert key or answer.status_code == 401

        validate()


def test_document_has_every_route(whole: LiveService, service: LiveService) -> None:
    plain = {"/v1/score", "/v1/openrtb", "/v1/model"}
    others = {
        "/v1/items",
        "/v1/items/{item_id}",
        "/v1/events",
        "/v1/admin/swap",
        "/v1/admin/rollback",
        "/v1/admin/experiment",
    }
    with whole.client(headers={"X-Api-Key": KEYS["ads"]}) as client:
        paths = client.get("/openapi.json").json()["paths"]

    assert {path for path in paths if path.startswith("/v1/")} == plain | others
    assert next(iter(paths)) == "/v1/score"
    for path, operations in paths.items():
        for operation in operations.values():
            open_to_all = path.removeprefix("/v2") in ("/health/live", "/health/ready", "/metrics")
            assert ("401" in operation["responses"]) == (not open_to_all), path
    with service.client() as client:
        ours = {path for path in client.get("/openapi.json").json()["paths"] if not path.startswith("/v2")}
    assert ours == plain | {"/health/live", "/health/ready", "/metrics"}


def test_published_document_is_the_service_s(whole: LiveService) -> None:
    assert PUBLISHED.read_text("utf-8") == published(whole), "run `make openapi`"


def test_documented_examples_work(service: LiveService) -> None:
    with service.client() as client:
        operation = client.get("/openapi.json").json()["paths"]["/v1/score"]["post"]
        examples = operation["requestBody"]["content"]["application/json"]["examples"]
        assert examples
        for example in examples.values():
            answer = client.post("/v1/score", json=example["value"])
            assert answer.status_code == 200
            assert "degraded" not in answer.json()  # user and ads are known
            assert all(ecpm > 0 for ecpm in answer.json()["candidates"]["ecpm"])
        assert set(operation["responses"]) >= {"200", "400", "408", "413", "415", "422", "429", "500", "503", "504"}


def test_page_and_its_assets_are_served_here(service: LiveService) -> None:
    with service.client() as client:
        page = client.get("/docs").text
        assert not re.findall(r"(?:src|href|url)\s*[=:]\s*[\"'](?:https?:)?//", page)
        assets = re.findall(r"docs/assets/[a-z.-]+", page)
        assert len(assets) == 3
        for asset in assets:
            assert client.get(f"/{asset}").status_code == 200


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made, whole_service(Path(made)) as running:
        PUBLISHED.write_text(published(running), "utf-8")
