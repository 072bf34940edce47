"""Traffic is seeded, valid, about the bundle's own users and items, and some of these come far more often."""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from loadtest.http_client import ClientError, ServiceConnection, measure_latency
from loadtest.requests import OPENRTB, as_bid_request
from loadtest.traffic import Traffic, mix_of
from msd.__main__ import main
from msd.contract.bundle import Bundle
from msd.contract.errors import MsdError
from msd.contract.openrtb import OpenrtbMapping
from msd.contract.request import parse_request
from tests.bundles.factory import ITEMS, USERS, build_bundle, reseal
from tests.service.live import LiveService, live_service


def _bodies(bundle: Bundle, count: int, candidates: int = 20, seed: int = 0) -> list[bytes]:
    return list(islice(Traffic(bundle.folder, candidates, seed).bodies(), count))


def test_seed_sets_bodies(bundle: Bundle) -> None:
    assert _bodies(bundle, 5) == _bodies(bundle, 5)
    assert _bodies(bundle, 5) != _bodies(bundle, 5, seed=1)


def test_every_body_fits_the_schema(bundle: Bundle) -> None:
    users, items = ({f"{side}{number}" for number in range(count)} for side, count in (("u", USERS), ("i", ITEMS)))
    for body in _bodies(bundle, 200):
        request = parse_request(body, bundle.schema)
        ids, bids = request.candidates.id, request.candidates.bid
        assert len(ids) == len(set(ids)) == 20
        assert set(ids) <= items
        assert request.user_id in users
        assert bids is not None
        assert all(bid is not None and bid > 0 for bid in bids)
        assert set(request.context or {}) == {"hour"}
        assert request.at == int(bundle.manifest.created_at)
    (body,) = _bodies(bundle, 1, candidates=ITEMS + 1)
    assert len(parse_request(body, bundle.schema).candidates.id) == ITEMS + 1


def test_some_users_and_items_come_far_more_often(bundle: Bundle) -> None:
    documents = [json.loads(body) for body in _bodies(bundle, 400)]
    for ids, distinct in (
        ([body["user_id"] for body in documents], USERS),
        ([item for body in documents for item in body["candidates"]["id"]], ITEMS),
    ):
        (_, most), *_, (_, fewest) = Counter(ids).most_common(distinct // 2)
        assert most > 3 * len(ids) / distinct > 4 * fewest > 0


def test_requests_are_as_long_as_the_mix_says(bundle: Bundle) -> None:
    bodies = islice(Traffic(bundle.folder, mix_of("5:3,20:1")).bodies(), 400)
    found = Counter(len(json.loads(body)["candidates"]["id"]) for body in bodies)

    assert found.keys() == {5, 20}
    assert found[5] == pytest.approx(300, abs=60)
    assert mix_of("200") == {200: 1.0}


@pytest.mark.parametrize("text", ["", "many", "0", "-1", "50:x", "50:0", "50:nan", "50:inf", "50,", "1.5"])
def test_rejects_invalid_mix(text: str) -> None:
    with pytest.raises(MsdError, match=r"expected 200, or shares such as 50:3,200:1"):
        mix_of(text)


def test_latency_ends_with_a_reply_that_is_not_200(bundle: Bundle, service: LiveService) -> None:
    # More candidates than a service takes.
    with pytest.raises(ClientError, match=r"answered 413: .*2001 candidates"):
        measure_latency(service.url, islice(Traffic(bundle.folder, 2_001).bodies(), 1))


@pytest.mark.parametrize(("candidates", "shown"), [("7", 7), ("5:3,20:1", "5:3,20:1")])
def test_bench_command_with_one_client(
    bundle: Bundle, service: LiveService, capsys: pytest.CaptureFixture[str], candidates: str, shown: int | str
) -> None:
    command = ["bench", str(bundle.folder), "--url", service.url, "--requests", "20", "--warmup", "2"]
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--candidates", candidates, "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert (figures["requests"], figures["candidates"]) == (20, shown)
    assert 0 < figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"] <= figures["max_ms"]
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--candidates", candidates])
    assert capsys.readouterr().out.startswith(f"20 requests of {shown} candidates: p50 ")


@pytest.mark.parametrize("arrivals", ["poisson", "constant", "bursts"])
def test_bench_command_under_arrivals(
    bundle: Bundle, service: LiveService, capsys: pytest.CaptureFixture[str], arrivals: str
) -> None:
    command = ["bench", str(bundle.folder), "--url", service.url, "--candidates", "5:3,20:1", "--seconds", "0.5"]
    command += ["--rate", "80", "--arrivals", arrivals]
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert figures["rate"] == 80
    assert figures["statuses"]["200"] == figures["offered"] > 0
    assert figures["p50_ms"] <= figures["p99_ms"] <= figures["p99.9_ms"]
    with pytest.raises(SystemExit, match="0"):
        main(command)
    assert "from when it was due" in capsys.readouterr().out


def test_bench_command_names_missing_bundle_service_and_wrong_mix(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        ([str(tmp_path)], "no bundle here"),
        ([str(bundle.folder), "--url", "http://127.0.0.1:9"], "http://127.0.0.1:9: no reply"),
        ([str(bundle.folder), "--candidates", "some"], "expected 200, or shares"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["bench", *arguments])
        assert message in capsys.readouterr().err


def test_new_ads_have_texts_and_names_of_their_own(bundle: Bundle) -> None:
    bodies = [json.loads(body) for body in islice(Traffic(bundle.folder, 20, seed=3, cold=0.3).bodies(), 200)]
    new = [[name for name in body["candidates"]["id"] if name.startswith("new-3-")] for body in bodies]

    assert 0.25 < sum(map(len, new)) / (200 * 20) < 0.35
    names = [name for names in new for name in names]
    assert len(set(names)) == len(names)
    for body, added in zip(bodies, new, strict=True):
        assert set(body.get("items", {})) == set(added)
        request = parse_request(json.dumps(body).encode(), bundle.schema)
        assert set(request.candidates.id) == set(body["candidates"]["id"])
    texts = [item["text"] for body in bodies for item in body.get("items", {}).values()]
    assert len(set(texts)) == len(texts)


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
