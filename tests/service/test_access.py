"""What wraps every route: failures of any kind get the one form of error, and tell nothing of the inside."""

import asyncio

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import ErrorReply, ServiceError
from service.http.access import AccessMiddleware
from service.telemetry.metrics import Metrics


def failing(error: Exception, after_start: bool = False) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if after_start:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    return app


def get(app: ASGIApp, **headers: str) -> httpx.Response:
    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(AccessMiddleware(app, Metrics()))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/", headers=headers)

    return asyncio.run(call())


def test_internal_error_reveals_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    answer = get(failing(ValueError("the password is hunter2")), **{"X-Request-Id": "mine"})

    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal"
    assert "hunter2" not in answer.text
    logged = capsys.readouterr().out
    assert "mine" in logged
    assert "ValueError" in logged


def test_failure_after_the_reply_began_ends_the_connection() -> None:
    with pytest.raises(ValueError, match="too late"):
        get(failing(ValueError("too late"), after_start=True))


def _all_service_errors(base: type[ServiceError] = ServiceError) -> list[type[ServiceError]]:
    return [base, *(error for child in base.__subclasses__() for error in _all_service_errors(child))]


@pytest.mark.parametrize("kind", _all_service_errors())
def test_every_error_of_the_tree_has_the_one_form(kind: type[ServiceError]) -> None:
    answer = get(failing(kind("what", "where.it.is")))

    assert answer.status_code == kind.status
    error = ErrorReply.model_validate(answer.json()).error
    assert (error.code, error.message, error.field) == (kind.code, "what", "where.it.is")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers.get("retry-after") == (None if kind.retry_after_s is None else str(kind.retry_after_s))
    assert answer.headers.get("connection") == ("close" if kind.closes else None)
