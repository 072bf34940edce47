"""The header that says how long a request may take: what it may say, and that all of the work keeps to it."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import native
from msd.contract.bundle import Bundle
from service.errors import MalformedHeader
from service.http.body import check_deadline
from tests.bundles.factory import AT, golden_requests
from tests.service.faults import ModelRuns
from tests.service.live import LiveService, live_service, wait_until

REQUEST: dict[str, Any] = {"user_id": "u1", "at": AT, "candidates": {"id": [f"i{n}" for n in range(40)]}}


@given(st.one_of(st.binary(max_size=30), st.integers().map(lambda number: str(number).encode())))
def test_all_but_a_time_up_to_a_limit_is_malformed(value: bytes) -> None:
    scope = {"headers": [(b"accept", b"*/*"), (b"x-deadline-ms", value)]}
    if value.strip().isdigit() and 1 <= int(value) <= 60_000:
        check_deadline(scope)
        return
    with pytest.raises(MalformedHeader) as raised:
        check_deadline(scope)
    assert raised.value.field == "X-Deadline-Ms"


def test_malformed_deadline_gets_400_with_the_most_allowed(service: LiveService) -> None:
    with service.client() as client:
        answer = client.post("/v1/score", json=golden_requests()[0], headers={"X-Deadline-Ms": "60001"})
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "malformed"
        assert answer.json()["error"]["field"] == "X-Deadline-Ms"
        assert answer.headers["X-Deadline-Ms"] == "60000"
        assert client.post("/v1/score", json=golden_requests()[0]).status_code == 200


def test_near_the_end_the_first_are_scored_and_the_others_get_the_prior(bundle: Bundle, tmp_path: Path) -> None:
    """How long a run takes is learned, and then asked for a part of it."""
    runs = ModelRuns(tmp_path)
    with live_service(bundle.folder, tmp_path, prepare=runs.obey) as running, running.client() as client:

        def scored(**headers: str) -> httpx.Response:
            return client.post("/v1/score", json={**REQUEST, "at": AT}, headers=headers)

        runs.slow_down(0.01)
        whole = scored()
        answers = [whole]

        def is_partial() -> bool:
            # Too little for all, enough for some; on a busy machine perhaps for none.
            answers.append(scored(**{"X-Deadline-Ms": "320"}))
            return "degraded" in answers[-1].json()

        wait_until(is_partial)
        runs.slow_down(0)
        document = answers[-1].json()
        marked = document["degraded"]["candidates"]
        count = len(REQUEST["candidates"]["id"]) - len(marked)
        assert 2 <= count < 40
        assert set(marked.values()) == {"prior"}
        assert list(marked) == REQUEST["candidates"]["id"][count:]
        pctr, expected = document["candidates"]["pctr"], whole.json()["candidates"]["pctr"]
        assert pctr[:count] == pytest.approx(expected[:count], abs=1e-5)
        # What an item gets of which nothing is known, by the same user in the same context.
        unknown = client.post("/v1/score", json={**REQUEST, "candidates": {"id": ["of no row"]}})
        assert pctr[count:] == pytest.approx([unknown.json()["candidates"]["pctr"][0]] * (40 - count), abs=1e-5)
        wait_until(lambda: running.metric("msd_partial_total") >= 1)
        wait_until(lambda: running.metric('msd_degraded_total{rung="prior",side="item"}') >= 40 - count)


@given(
    st.dictionaries(st.integers(1, 2_000), st.floats(1e-5, 1.0), max_size=12),
    st.integers(1, 2_000),
    st.floats(1e-6, 1.0),
)
def test_never_more_is_run_than_is_asked_for_nor_a_run_of_nobody(
    known: dict[int, float], rows: int, seconds: float
) -> None:
    assert native.core is not None
    learned = native.core.Runner()
    for size, took in known.items():
        learned.learn_run(size, took)
    expected = learned.run_s(rows)
    fitting = learned.fitting(rows, seconds)

    # Beside the candidates runs an unknown item: of three rows, two are candidates.
    assert fitting in (0, rows) or 3 <= fitting < rows
    assert (fitting == rows) == (expected <= seconds)
    if 0 < fitting < rows:
        assert learned.run_s(fitting) <= seconds
