"""Impressions of one BidRequest: those of equal contexts share a run, in which equal ads are one candidate."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.contract.bundle import open_bundle
from operations.replay.log import replay_log
from tests.bundles.factory import AT, build_bundle, reseal
from tests.contract.bid_requests import MAPPING, bid_request
from tests.service.live import LiveService, live_service, wait_until
from tests.service.request_log.log import awaited

ADS = [*(f"i{number}" for number in range(60)), "stranger", "other stranger"]
# Of each impression its position, which is its only feature, and its ads; the last are as the first.
IMPRESSIONS = st.lists(
    st.tuples(st.sampled_from([1, 3, None]), st.lists(st.sampled_from(ADS), min_size=1, max_size=40)),
    min_size=1,
    max_size=8,
).map(lambda some: some + some[:3])
Impressions = list[tuple[int | None, list[str]]]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service that logs all requests beside its bundle."""
    folder = tmp_path_factory.mktemp("impressions")
    reseal(build_bundle(folder / "bundle").folder, openrtb=MAPPING)
    with live_service(folder / "bundle", folder, log_dir=folder / "log", LOG_FLUSH_S=0.2, log_sample=1) as service:
        yield service


@pytest.fixture(scope="module")
def client(running: LiveService) -> Iterator[httpx.Client]:
    with running.client() as kept:
        yield kept


def scored(client: httpx.Client, impressions: Impressions, **more: object) -> list[dict[str, Any]]:
    """The replies to the impressions of one BidRequest, by a user who may be known."""
    imps = [{"id": str(n), "banner": {"pos": position}} for n, (position, _) in enumerate(impressions)]
    candidates = {str(n): {"id": ads, "bid": [0.5] * len(ads)} for n, (_, ads) in enumerate(impressions)}
    document = {"request": bid_request(imp=imps), "candidates": candidates, "at": AT, **more}
    answer = client.post("/v1/openrtb", json=document)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["imp"].values())


@settings(max_examples=40)
@given(impressions=IMPRESSIONS, top_k=st.none() | st.integers(1, 50))
def test_impressions_are_scored_as_alone_and_equal_ads_to_the_bit(
    client: httpx.Client, impressions: Impressions, top_k: int | None
) -> None:
    seen: dict[tuple[int | None, str], float] = {}
    for n, found in enumerate(scored(client, impressions, top_k=top_k)):
        position, ads = impressions[n]
        context = {"device": 4, "hour": position, "temperature": 1990}
        document = {"user_id": "u7", "at": AT, "context": context, "candidates": {"id": ads, "bid": [0.5] * len(ads)}}
        alone = client.post("/v1/score", json=document).json()
        own = dict(zip(alone["candidates"]["id"], alone["candidates"]["pctr"], strict=True))
        candidates = found["candidates"]

        assert len(candidates["id"]) == min(len(ads), top_k or len(ads))
        for ad, score in zip(candidates["id"], candidates["pctr"], strict=True):
            assert score == pytest.approx(own[ad], abs=1e-6)
            assert seen.setdefault((position, ad), score) == score
        assert found.get("degraded") == alone.get("degraded")
        assert found["request_id"].endswith(f"/{n}")


def test_impressions_of_equal_contexts_share_a_run(client: httpx.Client, running: LiveService) -> None:
    def runs() -> tuple[float, float]:
        return running.metric("msd_run_rows_count"), running.metric("msd_run_rows_sum")

    # A run is counted before its candidates leave the queue, and perhaps after its reply.
    wait_until(lambda: running.metric("msd_queued_rows") == 0)
    count, rows = runs()
    scored(client, [(1, ["i1", "i2"]), (3, ["i1"]), (1, ["i2", "i3"]), (1, ["i3", "i3"])])

    wait_until(lambda: runs() == (count + 2, rows + 4))


def test_shared_run_is_replayed_within_the_tolerances(client: httpx.Client, running: LiveService) -> None:
    folder = running.log_path.parent
    document = {"user_id": "u7", "at": AT, "candidates": {"id": ["i1", "i2", "i1", "stranger"]}}
    assert client.post("/v1/score", json=document).status_code == 200
    scored(client, [(1, ["i1", "i2"]), (1, ["i3", "stranger", "i3"]), (3, ["i4"]), (1, ["i1", "i2"])])
    same = scored(client, [(1, ["i5", "stranger"])] * 2)
    records = awaited(folder / "log", [one["request_id"] for one in same])

    found = replay_log(folder / "log", [open_bundle(folder / "bundle")], "as logged", None, lambda: None)

    assert not any(record.is_shared for record in records.values())
    assert found.mismatches == 0
    assert found.exact > 0
    assert found.unlike == {"a run with candidates of other impressions": found.near}
