"""Simulated days: real services, real logs, and a real night that keeps the bundle after bots; a large night,
and a training on many events."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.nights import large, show
from lab.nights.drawing import draw_decisions
from lab.nights.large import run_large
from lab.nights.made_night import KINDS
from lab.nights.refused import run_refused
from lab.nights.show import Day, run_nights
from lab.nights.simulated import Nights, run_simulated
from lab.nights.stream import run_stream
from lab.nights.world import World
from loadtest.http_client import ServiceConnection
from msd.contract.errors import MsdError
from tests.ranker.brief import brief_tastes  # noqa: F401 - a fixture
from tests.scripted_server import Reply, scripted_server
from tests.service.live import run_msd


@pytest.fixture(scope="module", autouse=True)
def _commands_run_here() -> Iterator[None]:
    """Commands whose end is waited for run in this process, which has loaded torch."""
    waited = SimpleNamespace(**{**vars(subprocess), "run": _run})
    with pytest.MonkeyPatch.context() as patch:
        for module in (large, show):
            patch.setattr(module, "subprocess", waited)
        yield


def _run(command: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":  # noqa: ANN401 - subprocess.run's
    return run_msd(*command[3:])


def test_day_of_bots_is_measured_and_its_night_keeps_the_bundle(tmp_path: Path) -> None:
    heard: list[str] = []
    found = run_nights(tmp_path / "work", 1_000, 1, heard.append, [Day("bots", bots=0.9, expected="kept")])
    (day,) = found["days"]
    assert heard == ["the first bundle", "day bots", "night bots"]
    assert (day["served"], day["night"]["status"]) == ("first", "kept")
    assert "than a factor of 3" in day["night"]["why"][0]
    assert day["night"]["counts"]["new_impressions"] == 1_000
    scores = day["scores"]
    assert scores["law"]["auc"] > max(scores["nightly"]["auc"], scores["never"]["auc"])
    json.dumps(found, allow_nan=False)


def test_large_night_is_measured_by_step(tmp_path: Path) -> None:
    found = run_large(tmp_path / "work", 1_500, 1, lambda doing: None)
    counts = found["counts"]
    assert (counts["requests"], counts["joined_impressions"], counts["repeated_requests"]) == (1_500, 1_500, 0)
    assert list(found["steps"])[:4] == ["join", "train", "export", "judge"]
    assert all(cost["peak_mb"] > 50 for cost in found["steps"].values())
    assert found["log_bytes"] > 100 * 1_500


def test_training_on_many_events_is_measured_by_phase(tmp_path: Path) -> None:
    found = run_stream(tmp_path / "work", 5_000, 1, lambda doing: None)
    assert list(found["steps"]) == ["write", "train"]
    assert all(cost["peak_mb"] > 50 and cost["cpu_seconds"] > 0 for cost in found["steps"].values())


def test_visitor_whose_request_is_late_is_counted_and_the_day_goes_on(tmp_path: Path) -> None:
    world, told = World(tmp_path), Reply(202)
    scored = Reply(body=json.dumps({"request_id": "r", "candidates": {"pctr": [0.1] * 5}}).encode())
    with ExitStack() as stack:
        for acts in ((Reply(504), told), (scored, told), (scored, scored, told)):
            url = stack.enter_context(scripted_server(*acts)).url
            world._connections.append(stack.enter_context(ServiceConnection(url)))
        shown = world.visits(2)

    assert (shown.unscored, len(shown.nightly)) == (1, 1)


def test_simulated_nights_are_decided_by_the_real_gate_and_resume(tmp_path: Path) -> None:
    nights, kept, heard = Nights(7, judged=1_000, share=0.05), tmp_path / "kept.jsonl", list[str]()
    first = run_simulated(nights._replace(total=1), heard.append, kept)["nights"]
    found = run_simulated(nights, heard.append, kept)

    assert [one["kind"] for one in found["nights"]] == [*KINDS, KINDS[0]]
    assert [one["source"] == "made-up law" for one in found["nights"]] == 6 * [True] + [False]
    assert (found["nights"][:1], len(heard)) == (first, 7), "a night is decided once"
    assert list(found["table"]) == [*KINDS, "all"]
    assert found["table"]["all"]["rollout"]["wrong"] == 0
    assert all(one["gain"] < 0 for one in found["nights"] if one["kind"] in ("noise", "fad"))
    assert all(0.02 < one["cost"] < 0.04 for one in found["nights"]), "a uniform draw earns half or less"
    assert draw_decisions(json.loads(json.dumps(found, allow_nan=False))["nights"]).startswith("<svg")
    with pytest.raises(MsdError, match="holds nights of"):
        run_simulated(nights._replace(seed=1), heard.append, kept)


def test_rows_of_refused_nights_are_weighed_against_leaving_them_out() -> None:
    found = run_refused(2, 3, lambda doing: None, pasts=[5_000])
    gains = {one["kind"]: {weight: each["gain"] for weight, each in one["gains"].items()} for one in found["refused"]}
    assert set(gains) == {"bots", "fad", "drift"}
    assert all(of_weights["0.0"] == 0 for of_weights in gains.values())
    assert gains["drift"]["1.0"] > 0.01, "a drift that is refused wrongly is what comes"
