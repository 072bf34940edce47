"""What the service says of itself where it requires keys and has all its routes: events and admin routes too."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from tests.service.live import LiveService
from tests.service.openapi_file import PUBLISHED, published, whole_service
from tests.service.test_guard import KEYS
from tests.service.test_openapi import CHECKS


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service with every route, over a folder of bundles."""
    with whole_service(tmp_path_factory.mktemp("whole")) as running:
        yield running


@pytest.mark.parametrize(
    ("paths", "key", "mode", "examples"),
    [
        ("^/v1/events$", "ads", GenerationMode.POSITIVE, 24),
        ("^/v1/events$", "ads", GenerationMode.NEGATIVE, 30),
        ("^/v1/openrtb$", "ads", GenerationMode.POSITIVE, 16),
        ("^/v1/openrtb$", "ads", GenerationMode.NEGATIVE, 30),
        ("^/v1/admin/", "ops", GenerationMode.POSITIVE, 25),
        ("^/v1/admin/", "ops", GenerationMode.NEGATIVE, 50),
        ("^/v1/", "", GenerationMode.POSITIVE, 14),
        ("^/v2$|^/v2/models", "", GenerationMode.POSITIVE, 14),
    ],
)
def test_every_answer_is_a_documented_one(
    whole: LiveService, paths: str, key: str, mode: GenerationMode, examples: int
) -> None:
    """Without a key, too, where 401 is documented for each route."""
    headers = {"X-Api-Key": KEYS[key]} if key else {}
    schema = schemathesis.openapi.from_url(f"{whole.url}/openapi.json", headers={"X-Api-Key": KEYS["ads"]}).include(
        path_regex=paths
    )
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    assert operations
    for operation in operations:

        @seed(0)
        @settings(max_examples=examples // len(operations), deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def validate(case: Any) -> None:  # noqa: ANN401
            # Keys of the generator's own making would be tried in place of ours.
            for name in [name for name in case.headers or {} if name.lower() in ("authorization", "x-api-key")]:
                del case.headers[name]
            answer = case.call(headers=headers)
            case.validate_response(answer, checks=CHECKS if key else CHECKS[:-1])
            assert key or answer.status_code == 401

        validate()


def test_the_document_has_every_route(whole: LiveService) -> None:
    with whole.client(headers={"X-Api-Key": KEYS["ads"]}) as client:
        document = client.get("/openapi.json").json()

    assert {path for path in document["paths"] if path.startswith("/v1/")} == {
        "/v1/score",
        "/v1/openrtb",
        "/v1/events",
        "/v1/model",
        "/v1/admin/swap",
        "/v1/admin/rollback",
        "/v1/admin/experiment",
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            open_to_all = path.removeprefix("/v2") in ("/health/live", "/health/ready", "/metrics")
            assert ("401" in operation["responses"]) == (not open_to_all), path


def test_the_published_document_is_that_of_the_service(whole: LiveService) -> None:
    assert PUBLISHED.read_text("utf-8") == published(whole), "run `make openapi`"
