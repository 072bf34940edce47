"""The same requests by other routes: the same scores as by /v1/score, through the bench command and Locust too."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from loadtest.http_client import ServiceConnection
from loadtest.locust_settings import LocustSettings
from loadtest.routes import OPENRTB, SCORE, as_bid_request
from loadtest.traffic import Traffic
from msd.__main__ import main
from msd.contract.bundle import Bundle
from msd.contract.errors import MsdError
from msd.contract.openrtb import OpenrtbMapping
from tests.bundles.factory import build_bundle, reseal
from tests.loadtest.test_locustfile import run_locust
from tests.service.live import LiveService, live_service

MAPPING = {"user_id": ["device.ifa", "user.id"], "features": {"hour": "imp.ext.local_hour", "device": "device.os"}}


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that maps BidRequests."""
    folder = build_bundle(tmp_path_factory.mktemp("mapped") / "bundle").folder
    reseal(folder, openrtb=MAPPING)
    return folder


@pytest.fixture(scope="module")
def every_route(mapped: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service with both routes."""
    with live_service(mapped, tmp_path_factory.mktemp("every-route")) as running:
        yield running


def test_every_route_has_the_same_scores(mapped: Path, every_route: LiveService) -> None:
    traffic = Traffic(mapped, 20)
    with ServiceConnection(every_route.url) as client:
        for body in islice(traffic.bodies(), 10):
            whole = client.scored(body)
            bid = client.post(OPENRTB, as_bid_request(body, traffic.mapping))
            assert bid.status == 200
            assert json.loads(bid.body)["imp"]["1"]["candidates"] == json.loads(whole.body)["candidates"]


def test_values_are_at_their_paths() -> None:
    body = {"user_id": "u1", "at": 5, "top_k": 2, "context": {"hour": "3", "unmapped": 1}, "candidates": {"id": ["a"]}}
    found = json.loads(as_bid_request(json.dumps(body).encode(), OpenrtbMapping.model_validate(MAPPING)))

    assert found == {
        "request": {"id": "load", "imp": [{"id": "1", "ext": {"local_hour": "3"}}], "device": {"ifa": "u1"}},
        "candidates": {"1": {"id": ["a"]}},
        "at": 5,
        "top_k": 2,
    }


def test_texts_of_ads_do_not_fit_into_a_bid_request() -> None:
    body = b'{"user_id": "u1", "candidates": {"id": ["a"]}, "items": {"a": {"text": "x"}}}'
    with pytest.raises(MsdError, match="BidRequests take no texts"):
        as_bid_request(body, OpenrtbMapping.model_validate(MAPPING))


def _bench(folder: Path, url: str, *options: str) -> int:
    command = ["bench", str(folder), "--url", url, "--candidates", "7", "--requests", "12", "--warmup", "2", "--json"]
    with pytest.raises(SystemExit) as ended:
        main([*command, *options])
    return int(str(ended.value.code))


def test_the_bench_command_by_every_route(
    mapped: Path, every_route: LiveService, capsys: pytest.CaptureFixture[str]
) -> None:
    found: dict[str, dict[str, Any]] = {}
    for route in ("score", "openrtb"):
        assert _bench(mapped, every_route.url, "--route", route) == 0
        found[route] = json.loads(capsys.readouterr().out)

    for figures in found.values():
        assert (figures["requests"], figures["candidates"]) == (12, 7)
        assert 0 < figures["p50_ms"] <= figures["p99_ms"]
    assert found["score"].keys() == found["openrtb"].keys()
    counted = _scored(every_route, 'msd_openrtb_requests_total{user="given"}')
    assert _bench(mapped, every_route.url, "--route", "openrtb", "--rate", "40", "--seconds", "0.5") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["statuses"]["200"] == told["offered"] > 0
    assert _scored(every_route, 'msd_openrtb_requests_total{user="given"}') == counted + told["offered"]


def _scored(service: LiveService, sample: str) -> float:
    with ServiceConnection(service.url) as client:
        return client.metric(sample)


def test_what_a_route_lacks_is_said(bundle: Bundle, service: LiveService, capsys: pytest.CaptureFixture[str]) -> None:
    assert _bench(bundle.folder, service.url, "--route", "openrtb") == 2
    assert "maps no BidRequests; declare [openrtb] in dataset.toml" in capsys.readouterr().err


@pytest.mark.parametrize(("route", "path"), [("openrtb", OPENRTB), ("score", SCORE)])
def test_locust_sends_by_every_route(
    mapped: Path, every_route: LiveService, tmp_path: Path, route: str, path: str
) -> None:
    done = run_locust(every_route, tmp_path, LOADTEST_BUNDLE=str(mapped), LOADTEST_ROUTE=route)
    assert done.returncode == 0, done.stderr
    entries = json.loads(done.stdout)

    assert {entry["name"] for entry in entries} == {path}
    assert all(entry["num_requests"] > 0 and entry["num_failures"] == 0 for entry in entries)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"LOADTEST_ROUTE": "grpc"}, "LOADTEST_ROUTE=grpc: has to be score, openrtb"),
        ({"LOADTEST_ROUTE": "openrtb", "LOADTEST_COLD": "0.5"}, "LOADTEST_COLD=0.5: BidRequests take no texts of ads"),
        ({"LOADTEST_ROUTE": "openrtb"}, "maps no BidRequests"),
    ],
)
def test_settings_that_do_not_fit_the_route_are_named(bundle: Bundle, settings: dict[str, str], message: str) -> None:
    with pytest.raises(MsdError, match=message):
        LocustSettings.from_environ({"LOADTEST_BUNDLE": str(bundle.folder), **settings}).traffic(0)
