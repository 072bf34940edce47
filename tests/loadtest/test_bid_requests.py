"""The same requests as BidRequests: the same scores as by /v1/score, through the bench command and Locust too."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from loadtest.http_client import ServiceConnection
from loadtest.requests import OPENRTB, as_bid_request
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
def mapped_service(mapped: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    with live_service(mapped, tmp_path_factory.mktemp("mapped-service")) as running:
        yield running


def test_bid_requests_are_scored_like_score_requests(mapped: Path, mapped_service: LiveService) -> None:
    traffic = Traffic(mapped, 20)
    with ServiceConnection(mapped_service.url) as client:
        for body in islice(traffic.bodies(), 10):
            whole = client.scored(body)
            bid = client.post(OPENRTB, as_bid_request(body, traffic.mapping))
            assert bid.status == 200
            assert json.loads(bid.body)["imp"]["1"]["candidates"] == json.loads(whole.body)["candidates"]


def test_values_are_at_their_mapped_paths_and_texts_are_rejected() -> None:
    body = {"user_id": "u1", "at": 5, "top_k": 2, "context": {"hour": "3", "unmapped": 1}, "candidates": {"id": ["a"]}}
    found = json.loads(as_bid_request(json.dumps(body).encode(), OpenrtbMapping.model_validate(MAPPING)))

    assert found == {
        "request": {"id": "load", "imp": [{"id": "1", "ext": {"local_hour": "3"}}], "device": {"ifa": "u1"}},
        "candidates": {"1": {"id": ["a"]}},
        "at": 5,
        "top_k": 2,
    }
    with pytest.raises(MsdError, match="BidRequests take no texts"):
        as_bid_request(b'{"items": {"a": {"text": "x"}}}', OpenrtbMapping.model_validate(MAPPING))


def _bench(folder: Path, url: str, *options: str) -> int:
    command = ["bench", str(folder), "--url", url, "--candidates", "7", "--requests", "12", "--json"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--route", "openrtb", *options])
    return int(str(ended.value.code))


def test_bench_command_sends_bid_requests(
    bundle: Bundle, mapped: Path, mapped_service: LiveService, capsys: pytest.CaptureFixture[str]
) -> None:
    def counted() -> float:
        with ServiceConnection(mapped_service.url) as client:
            return client.metric('msd_openrtb_requests_total{user="given"}')

    before = counted()
    assert _bench(mapped, mapped_service.url, "--warmup", "2") == 0
    assert json.loads(capsys.readouterr().out)["requests"] == 12
    assert counted() == before + 14
    assert _bench(mapped, mapped_service.url, "--rate", "40", "--seconds", "0.5") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["statuses"]["200"] == figures["offered"] > 0
    assert counted() == before + 14 + figures["offered"]
    assert _bench(bundle.folder, mapped_service.url) == 2
    assert "maps no BidRequests; declare [openrtb] in dataset.toml" in capsys.readouterr().err


def test_locust_sends_bid_requests(mapped: Path, mapped_service: LiveService, tmp_path: Path) -> None:
    done = run_locust(mapped_service, tmp_path, LOADTEST_BUNDLE=str(mapped), LOADTEST_ROUTE="openrtb")
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads(done.stdout)

    assert entry["name"] == OPENRTB
    assert entry["num_requests"] > 0
    assert entry["num_failures"] == 0
