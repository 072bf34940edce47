"""The service's own description of itself: true of what it does, whole without any other host."""

import re
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from schemathesis import GenerationMode, checks
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks as openapi_checks

from tests.service.live import LiveService

CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.negative_data_rejection,
]


@pytest.mark.parametrize(
    ("paths", "mode", "examples"),
    [
        ("^/v1/score$", GenerationMode.POSITIVE, 45),
        ("^/v1/score$", GenerationMode.NEGATIVE, 45),
        ("^/(health|metrics|v1/model)", GenerationMode.POSITIVE, 20),
        ("/infer$", GenerationMode.POSITIVE, 20),
        ("/infer$", GenerationMode.NEGATIVE, 20),
        ("^/v2((?!infer).)*$", GenerationMode.POSITIVE, 28),
    ],
)
def test_every_answer_is_a_documented_one(
    service: LiveService, paths: str, mode: GenerationMode, examples: int
) -> None:
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json").include(path_regex=paths)
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    assert operations
    for operation in operations:

        @seed(0)
        @settings(max_examples=examples // len(operations), deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def validate(case: Any) -> None:  # noqa: ANN401
            told = str((case.headers or {}).get("X-Deadline-Ms", ""))
            if told.isascii() and told.isdigit() and 0 < int(told) < 1_000:
                del case.headers["X-Deadline-Ms"]  # a millisecond, say, is documented to be too little
            case.call_and_validate(checks=CHECKS)

        validate()


def test_the_documented_examples_work(service: LiveService) -> None:
    with service.client() as client:
        document = client.get("/openapi.json").json()
        operation = document["paths"]["/v1/score"]["post"]
        examples = operation["requestBody"]["content"]["application/json"]["examples"]
        assert examples
        for example in examples.values():
            assert client.post("/v1/score", json=example["value"]).status_code == 200
        assert set(operation["responses"]) >= {"200", "400", "408", "413", "415", "422", "429", "500", "503", "504"}
        ours = {path for path in document["paths"] if not path.startswith("/v2")}
        assert ours == {"/v1/score", "/v1/openrtb", "/v1/model", "/health/live", "/health/ready", "/metrics"}


def test_the_page_and_its_assets_come_from_here(service: LiveService) -> None:
    with service.client() as client:
        page = client.get("/docs").text
        assert not re.findall(r"(?:src|href|url)\s*[=:]\s*[\"'](?:https?:)?//", page)
        assets = re.findall(r"docs/assets/[a-z.-]+", page)
        assert len(assets) == 3
        for asset in assets:
            assert client.get(f"/{asset}").status_code == 200
        assert client.get("/openapi.json").status_code == 200
