"""Events of a service with live states, and the scores that follow."""

from typing import Any

import httpx

from tests.bundles.factory import AT
from tests.service.live import LiveService


def event(number: object, user: str | None, item: str, kind: str = "click", **more: object) -> dict[str, Any]:
    return {"event_id": f"e{number}", "type": kind, "user_id": user, "item_id": item, "at": AT + 10, **more}


def tell(service: LiveService, *events: dict[str, Any]) -> httpx.Response:
    with service.client() as client:
        return client.post("/v1/events", json={"events": events})


def scores(
    service: LiveService, user: str, *items: str, at: float = AT + 20, override: dict[str, Any] | None = None
) -> list[float]:
    answer = service.score({"user_id": user, "at": at, "candidates": {"id": items}, "user": override})
    assert answer.status_code == 200, answer.text
    found: list[float] = answer.json()["candidates"]["pctr"]
    return found
