"""What the laboratory says of freshness: what following by the hour earns, and how late a count is."""

import json
from functools import partial

import pytest

from msd.contract.bundle import Bundle
from msd.ranker.model import RankerConfig
from msd.training.train import TrainConfig
from tests.service.live import run_msd


def test_hours_compare_ways_with_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.worlds.hours.TrainConfig", partial(TrainConfig, epochs=1))
    alone = partial(RankerConfig, hidden=(), taste=False, affinity=0)
    monkeypatch.setattr("lab.worlds.hours.RankerConfig", alone)
    done = run_msd("lab", "hours", "churn", "--rows", "2400", "--hour", "14")
    found = {line["way"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert list(found) == ["live counts", "recalibrated", "refreshed", "law"], done.stderr
    assert all(0 < line["first_ecpm"] <= found["law"]["first_ecpm"] for line in found.values())
    assert found["refreshed"]["published"] == (found["refreshed"]["z"] > 1.2816)


def test_events_are_counted_by_the_next_score_in_both_stores(bundle: Bundle) -> None:
    done = run_msd("lab", "lag", str(bundle.folder), "--events", "10")
    found = json.loads(done.stdout)
    for store in ("embedded", "redis"):
        accepted, scored = found[store]["accepted_ms"], found[store]["scored_ms"]
        assert 0 < accepted["p50"] < scored["p50"] <= scored["p99"]
