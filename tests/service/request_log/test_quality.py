"""Drift and observed clicks: silent where nothing changed, loud where something did, and told as metrics."""

import gc
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msd.contract.bundle import Bundle, open_bundle
from msd.contract.log import EVENTS, EventRecord, RequestRecord
from msd.contract.reference import reference_of
from msd.contract.request import parse_request
from msd.contract.rows import RowCodec
from msd.contract.segments import segments_of
from operations.replay.log import basis_of
from service.request_log.files import log_files, read_events
from service.request_log.quality import CONVERSION_SETTLE_S, SETTLE_S, Drift, Observed
from service.telemetry.metrics import Metrics
from tests.assembled import assembled
from tests.bundles.factory import build_bundle, reseal
from tests.service.live import LiveService, live_service, wait_until
from tests.service.request_log.log import Logging, awaited, connected
from tests.service.request_log.test_files import RECORD


def asks(rng: np.random.Generator, temperature: float = 15.0) -> dict[str, Any]:
    """A request of a random user for random items, at a temperature with some spread."""
    return {
        "user_id": f"u{rng.integers(20)}",
        "at": 1_764_066_000.0,
        "context": {"temperature": float(rng.normal(temperature, 5))},
        "candidates": {"id": [f"i{place}" for place in rng.integers(0, 300, 4)]},
    }


@pytest.fixture(scope="module")
def seen(logging: Logging) -> list[RequestRecord]:
    """Records of 400 requests that are alike, then of 300 that were asked when it was warmer."""
    rng = np.random.default_rng(0)
    with logging.service.client() as client:
        replies = [
            client.post("/v1/score", json=asks(rng, temperature)).json() for temperature in [15.0] * 400 + [30.0] * 300
        ]
    return list(awaited(logging.folder, [reply["request_id"] for reply in replies]).values())


@pytest.fixture(scope="module")
def referenced(seen: list[RequestRecord], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The plain bundle with the distributions of the first 200 records."""
    bundle = build_bundle(tmp_path_factory.mktemp("referenced") / "bundle")
    codecs = [RowCodec(bundle.schema, side, bundle.bundle_id) for side in ("user", "item")]
    tensors = []
    for record in seen[:200]:
        basis = basis_of(record, *codecs)
        tensors.append(assembled(bundle.schema, record.request, basis.at, basis.user, basis.items))
    scores = {"pctr": np.concatenate([record.scores[0] for record in seen[:200]])}
    reseal(bundle.folder, reference=reference_of(bundle.schema, tensors, scores).model_dump())
    return open_bundle(bundle.folder)


def psi(metrics: Metrics) -> dict[str, float]:
    lines = [line for line in metrics.exposition().decode().splitlines() if "_psi{" in line]
    return {line.split('"')[1]: float(line.rsplit(" ", 1)[1]) for line in lines}


def add(drift: Drift, bundle: Bundle, found: Iterable[RequestRecord]) -> None:
    codecs = [RowCodec(bundle.schema, side, bundle.bundle_id) for side in ("user", "item")]
    for record in found:
        basis = basis_of(record, *codecs)
        inputs = assembled(bundle.schema, record.request, basis.at, basis.user, basis.items)
        drift.add(bundle.manifest, inputs, dict(zip(record.heads, record.scores, strict=True)))


@pytest.fixture
def drift(referenced: Bundle) -> Drift:
    metrics = Metrics()
    metrics.reference(referenced.manifest)
    return Drift(metrics)


def test_drift_is_small_until_something_changes(drift: Drift, seen: list[RequestRecord], referenced: Bundle) -> None:
    add(drift, referenced, seen[:150])
    assert psi(drift._metrics) == {}, "too few records"

    add(drift, referenced, seen[150:400])
    calm = psi(drift._metrics)
    assert {"age", "price", "temperature", "user_counts.log_impressions", "item_text.present", "pctr"} <= calm.keys()
    assert max(calm.values()) < 0.15

    add(drift, referenced, seen[400:])
    warmer = psi(drift._metrics)
    assert warmer["temperature"] > 0.5
    assert max(value for name, value in warmer.items() if name not in ("temperature", "pctr", "pcvr")) < 0.15


def test_drift_begins_anew_with_each_bundle(
    drift: Drift, seen: list[RequestRecord], referenced: Bundle, bundle: Bundle
) -> None:
    for served in (referenced, bundle, referenced):
        add(drift, served, seen[:150])
    assert psi(drift._metrics) == {}


def test_service_exposes_drift_and_observed_clicks(referenced: Bundle, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    settings: dict[str, Any] = {"log_dir": tmp_path / "log", "log_sample": 1, "LOG_FLUSH_S": 0.2}
    settings["log_segments"] = "hour, exchange"
    settings |= {"live": "on", "state_dir": tmp_path / "state"}
    with live_service(referenced.folder, tmp_path, **settings) as service:
        connected(service)
        with service.client() as client:
            replies = [client.post("/v1/score", json=asks(rng)).json() for _ in range(260)]
            events = list(_events(replies))
            assert client.post("/v1/events", json={"events": events}).status_code == 202
            predicted = sum(reply["candidates"]["pctr"][0] for reply in replies)
            for segment in ("all", "known", "hour=other"):
                sample = f'outcomes{{head="pctr",segment="{segment}"}}'
                wait_until(lambda: _has(service, f"msd_observed_{sample} 52.0"))  # noqa: B023
                assert service.metric(f"msd_expected_{sample}") == pytest.approx(predicted)
        wait_until(lambda: service.metric('msd_log_events_total{result="written"}') == len(events))
        assert [event.event_id for event in read_events(log_files(tmp_path / "log", EVENTS)[0])][0] == "e0"
        wait_until(lambda: _has(service, 'msd_input_psi{feature="age"}'))
        assert _has(service, 'msd_score_psi{head="pctr"}')
        told = [line["features"] for line in service.log() if line["event"] == "segments_missing"]
        assert told == [["exchange"]], "once for the bundle"


def _events(replies: list[dict[str, Any]]) -> Any:  # noqa: ANN401
    """An impression of each reply's first candidate, a click on every fifth, and one impression long after."""
    at = 1_764_066_000.0
    for place, reply in enumerate(replies):
        shown = {"user_id": "u1", "item_id": reply["candidates"]["id"][0], "request_id": reply["request_id"], "at": at}
        yield {"event_id": f"e{place}", "type": "impression", **shown}
        if place % 5 == 0:
            yield {"event_id": f"e{place}", "type": "click", **shown, "at": at + 9}
    yield {"event_id": "late", "type": "impression", "user_id": "u1", "item_id": "i1", "at": at + SETTLE_S + 10}


def _has(service: LiveService, sample: str) -> bool:
    with service.client() as client:
        return f"\n{sample}" in client.get("/metrics").text


def test_segments_are_of_declared_context_features(bundle: Bundle) -> None:
    asked = {"user_id": None, "context": {"hour": 13, "temperature": 1}, "candidates": {"id": ["i1"]}}
    request = parse_request(json.dumps(asked).encode(), bundle.schema)
    assert segments_of(request, bundle.schema, ["exchange", "hour", "temperature"]) == ["anonymous", "hour=13"]


def event(kind: str, item: str, at: float, request: str | None = "r") -> EventRecord:
    return EventRecord(f"{kind}{item}{at}", kind, "u", item, at, request, at)


def joined(metrics: Metrics) -> tuple[float, float]:
    """Expected and observed clicks."""
    expected, observed = (shown_clicks(metrics, f"msd_{what}_outcomes") for what in ("expected", "observed"))
    return expected.get(("all", "pctr"), 0.0), observed.get(("all", "pctr"), 0.0)


def collected() -> int:
    """Return the number of objects that the garbage collector tracks."""
    gc.collect()
    return len(gc.get_objects())


def test_impressions_are_judged_once_they_have_settled() -> None:
    metrics = Metrics()
    observed = Observed(metrics)
    for _ in range(2):
        observed.record(
            replace(RECORD, item_ids=["a", "b"], bids=None, heads=["pctr"], scores=[np.array([0.25, 0.5], np.float32)])
        )
    observed.event(event("click", "a", 100))
    observed.event(event("impression", "a", 99))
    observed.event(event("impression", "a", 101))
    observed.event(event("impression", "b", 150))
    observed.event(event("impression", "b", 150, "of another"))
    observed.event(event("click", "b", 150, None))
    observed.tell()
    assert joined(metrics) == (0, 0)

    observed.event(event("impression", "x", 99 + SETTLE_S, None))
    observed.tell()
    assert joined(metrics) == (0.25, 1)

    observed.event(event("click", "b", 160))
    observed.event(event("impression", "x", 150 + SETTLE_S, None))
    observed.tell()
    assert joined(metrics) == (0.75, 2)


def test_impressions_at_other_places_are_not_judged() -> None:
    """The scores are for the second place; of a model without positions all count."""
    for slot, due in ((2, (0.5, 0)), (None, (0.75, 1))):
        metrics = Metrics()
        observed = Observed(metrics)
        scores = [np.array([0.25, 0.5], np.float32)]
        observed.record(replace(RECORD, item_ids=["a", "b"], bids=None, heads=["pctr"], scores=scores, slot=slot))
        observed.event(replace(event("impression", "a", 100), position=1))
        observed.event(event("click", "a", 101))
        observed.event(replace(event("impression", "b", 100), position=2))
        observed.event(event("impression", "x", 100 + SETTLE_S, None))
        observed.tell()
        assert joined(metrics) == due


def test_garbage_collector_tracks_nothing_that_is_remembered() -> None:
    observed, before = Observed(Metrics()), collected()
    for number in range(1_000):
        observed.record(replace(RECORD, request_id=str(number)))
        for item in RECORD.item_ids:
            observed.event(event("impression", item, 100, str(number)))
            observed.event(event("click", item, 100, str(number)))
    assert collected() < before + 100


def test_outcomes_are_compared_by_segment() -> None:
    metrics = Metrics()
    observed = Observed(metrics)
    scores = [np.array([0.25, 0.5], np.float32), np.array([0.5, 0.75], np.float32)]
    for name, *segments in (("r", "known", "placement=top"), ("s", "anonymous", "placement=top")):
        observed.record(
            replace(RECORD, request_id=name, item_ids=["a", "b"], bids=None, scores=scores, segments=segments)
        )
        for kind, item, at in (("impression", "a", 1), ("impression", "b", 2), ("click", "b", 3)):
            observed.event(event(kind, item, at, name))
    observed.event(event("conversion", "b", 4, "s"))
    observed.event(event("conversion", "a", 4, "s"))  # which was not clicked
    for later in (SETTLE_S, CONVERSION_SETTLE_S):
        observed.event(event("impression", "x", 2 + later, None))
        observed.tell()

    def outcomes(what: str) -> dict[str, float]:
        return {f"{head} {segment}": value for (segment, head), value in shown_clicks(metrics, what).items()}

    assert outcomes("msd_expected_outcomes") == {
        **{"pctr all": 1.5, "pctr known": 0.75, "pctr anonymous": 0.75, "pctr placement=top": 1.5},
        **{"pcvr all": 1.5, "pcvr known": 0.75, "pcvr anonymous": 0.75, "pcvr placement=top": 1.5},
    }
    assert outcomes("msd_observed_outcomes") == {
        **{"pctr all": 2, "pctr known": 1, "pctr anonymous": 1, "pctr placement=top": 2},
        **{"pcvr all": 1, "pcvr known": 0, "pcvr anonymous": 1, "pcvr placement=top": 1},
    }


def test_combinations_of_segments_are_bounded() -> None:
    observed = Observed(Metrics())
    for number in range(5_000):
        observed.record(replace(RECORD, request_id=f"r{number}", segments=["known", f"placement={number}"]))
    assert len(observed._divisions) == 4_096 + 1


def test_remembered_requests_are_bounded() -> None:
    metrics = Metrics()
    observed = Observed(metrics)
    ids = [f"i{place}" for place in range(2_000)]
    scores = [np.full(2_000, 0.5, np.float32)]
    for number in range(300):
        observed.record(
            replace(RECORD, request_id=f"r{number}", item_ids=ids, bids=None, heads=["pctr"], scores=scores)
        )
    for number in (0, 299):
        observed.event(event("impression", "i7", 100, f"r{number}"))
    observed.event(event("impression", "x", 100 + SETTLE_S, None))
    observed.tell()

    assert joined(metrics)[0] == 0.5, "the oldest is forgotten"


def shown_clicks(metrics: Metrics, name: str) -> dict[tuple[str, str], float]:
    lines = [line for line in metrics.exposition().decode().splitlines() if line.startswith(f"{name}{{")]
    return {(line.split('"')[3], line.split('"')[1]): float(line.rsplit(" ", 1)[1]) for line in lines}


def test_impressions_are_counted_by_rank_and_bid() -> None:
    metrics = Metrics()
    observed = Observed(metrics)
    ids = [f"i{place}" for place in range(8)]
    bids = [4.0, None, 1.0, None, 3.0, 2.0, 5.0, 8.0]
    scores = np.array([0.5, 0.875, 0.5, 0.75, 0.5, 0.5, 0.5, 0.125], np.float32)  # by eCPM: i6 i0 i4 i5 i7 i2, i1 i3
    observed.record(replace(RECORD, item_ids=ids, heads=["pctr"], scores=[scores], bids=bids, pricing=None))
    for item in ids:
        observed.event(event("impression", item, 1.0))
    for item in ("i6", "i3"):
        observed.event(event("click", item, 2.0))
    observed.event(event("impression", "x", 2.0 + SETTLE_S, None))
    observed.tell()

    expected, clicks = (shown_clicks(metrics, f"msd_shown_{what}") for what in ("expected_clicks", "clicks"))
    assert {cell: value for cell, value in expected.items() if value} == {
        ("1", "highest"): 0.5,
        ("2-5", "lowest"): 0.5,
        ("2-5", "low"): 0.5,
        ("2-5", "high"): 0.5,
        ("2-5", "highest"): 0.125,
        ("6+", "lowest"): 0.5,
        ("6+", "none"): 1.625,
    }
    assert {cell: value for cell, value in clicks.items() if value} == {("1", "highest"): 1.0, ("6+", "none"): 1.0}
