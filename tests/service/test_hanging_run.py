"""A model run that never ends: whoever waits is answered, a thread that is left scores others, and the service ends."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.bundle_factory import build_bundle
from tests.service.live import LiveService, live_service, wait_until
from tests.service.ranker_graph import POISON_HOUR, Recipe

GOOD: dict[str, Any] = {"user_id": "u1", "candidates": {"id": ["i1", "i2"]}}
HANGS = {**GOOD, "context": {"hour": POISON_HOUR}}
IN_PYTHON: dict[str, Any] = {"items": {"i1": {}}}


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[LiveService]:
    """A service of two scoring threads over a model that hangs at one hour."""
    bundle = build_bundle(tmp_path / "bundle", Recipe(hangs=True))
    with live_service(bundle.folder, tmp_path, workers=2, deadline_ms=400) as service:
        yield service


@pytest.mark.parametrize("way", [{}, IN_PYTHON], ids=["native", "python"])
def test_nobody_waits_for_ever(hanging: LiveService, way: dict[str, Any]) -> None:
    answers = [hanging.score(HANGS | way)]
    # The other thread goes on.
    assert [hanging.score(GOOD | way).status_code for _ in range(20)] == [200] * 20
    answers += [hanging.score(HANGS | way), hanging.score(GOOD | way), hanging.score(GOOD | way)]
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert hanging.metric('msd_shed_total{reason="deadline"}') == 4
    # What was given up is not counted as waiting.
    assert hanging.metric("msd_queued_rows") == 0


def test_a_connection_goes_on_after_a_run_was_given_up(hanging: LiveService) -> None:
    with hanging.client() as client:
        found = [
            client.post("/v1/score", content=json.dumps(one), headers={"content-type": "application/json"})
            for one in (HANGS, GOOD, GOOD)
        ]
    assert [one.status_code for one in found] == [504, 200, 200]


def test_the_service_ends_with_a_run_at_hand(hanging: LiveService) -> None:
    assert hanging.score(HANGS).status_code == 504
    hanging.terminate()
    wait_until(lambda: hanging.process.poll() is not None)
    assert any(line["event"] == "run_left_behind" for line in hanging.log())


def test_what_cannot_be_taken_on_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    bundle = build_bundle(tmp_path / "bundle", Recipe(hangs=True))
    most = {**HANGS, **IN_PYTHON, "candidates": {"id": [f"i{n}" for n in range(100)]}}
    with (
        live_service(bundle.folder, tmp_path, max_candidates=100, max_queued_rows=100, drain_seconds=0) as service,
        ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(service.score, most)
        wait_until(lambda: service.metric("msd_queued_rows") == 100)
        with service.client() as client:
            # What is no JSON at all would get 400.
            answer = client.post("/v1/score", content=b"[" * 5_000, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "overloaded")
        service.process.kill()
        assert isinstance(asked.exception(60), httpx.TransportError)
