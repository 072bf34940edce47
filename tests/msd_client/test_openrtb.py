"""BidRequests by the clients, against a real service: each impression has the scores of /v1/score."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from msd_client import BadReply, Candidates, InvalidRequest, OpenrtbRequest, ScoreRequest
from tests.bundles.factory import AT, build_bundle, reseal
from tests.contract.bid_requests import CONTEXTS, MAPPING, bid_request, tcf
from tests.msd_client.conftest import Ask
from tests.scripted_server import Reply, scripted_server
from tests.service.live import LiveService, live_service

ONE = Candidates(ids=[f"i{number}" for number in range(20)], bids=[0.5] * 20)
TWO = Candidates(ids=("i1", "i2"), bids=(2.0, None), pricing=("cpa", "cpc"))
REQUEST = OpenrtbRequest(request=bid_request(), candidates={"1": ONE, "2": TWO}, at=AT)
OPTIONS = {"deadline_s": 30}
SCORES = {"request_id": "r/0", "model_version": "v", "candidates": {"id": ["a"], "pctr": [0.5], "ecpm": [None]}}
GOOD: dict[str, Any] = {"id": "br-1", "consent": True, "imp": {"1": SCORES}}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service whose bundle maps BidRequests."""
    folder = tmp_path_factory.mktemp("openrtb")
    bundle = build_bundle(folder / "bundle").folder
    reseal(bundle, openrtb=MAPPING)
    with live_service(bundle, folder) as running:
        yield running


@pytest.mark.parametrize("top_k", [None, 1])
def test_impression_scores_equal_score_route(ask: Ask, service: LiveService, top_k: int | None) -> None:
    reply = ask(service.url, "openrtb", replace(REQUEST, top_k=top_k), options=OPTIONS, request_id="r-1")

    assert (reply.id, reply.consent) == (REQUEST.request["id"], True)
    assert list(reply.imps) == ["1", "2"]
    for place, (imp, ads) in enumerate(REQUEST.candidates.items()):
        plain = ScoreRequest(
            user_id=REQUEST.request["user"]["buyeruid"],
            ids=ads.ids,
            bids=ads.bids,
            pricing=ads.pricing,
            at=AT,
            context=CONTEXTS[imp],
            top_k=top_k,
        )
        scored = ask(service.url, "score", plain, options=OPTIONS, request_id=f"r-1/{place}")
        assert reply.imps[imp] == scored
        assert len(scored) == (top_k or len(ads.ids))


def test_reply_without_consent(ask: Ask, service: LiveService) -> None:
    refused = bid_request()
    refused["regs"], refused["user"]["consent"] = {"gdpr": 1}, tcf(purposes=())
    reply = ask(service.url, "openrtb", replace(REQUEST, request=refused), options=OPTIONS)

    assert reply.consent is False
    assert {imp.degraded_user for imp in reply.imps.values()} == {"unknown"}


@pytest.mark.parametrize(
    ("changes", "status", "code", "field"),
    [
        ({"candidates": {"9": ONE}}, 422, "invalid", "candidates.9"),
        ({"candidates": {"1": replace(ONE, ids="i1")}}, 422, "invalid", "candidates.1.id"),
        ({"candidates": {"1": Candidates(ids=["i1"] * 2_001)}}, 413, "too_many_candidates", "candidates"),
    ],
)
def test_error_names_field(
    ask: Ask, service: LiveService, changes: dict[str, Any], status: int, code: str, field: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ask(service.url, "openrtb", replace(REQUEST, **changes), options=OPTIONS)
    error = refused.value
    assert (error.status, error.code, error.field) == (status, code, field)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": None}, "'id' is not of type str"),
        ({"consent": "yes"}, "'consent' is not of type bool"),
        ({"imp": []}, "'imp' is not of type dict"),
        ({"imp": {"1": None}}, "'1' is not of type dict"),
        ({"imp": {"1": {**SCORES, "candidates": None}}}, "'candidates' is not of type dict"),
    ],
)
def test_reply_without_scores_is_an_error(ask: Ask, changes: dict[str, Any], message: str) -> None:
    bad = Reply(body=json.dumps(GOOD | changes).encode())
    with scripted_server(bad) as server, pytest.raises(BadReply, match=message):
        ask(server.url, "openrtb", REQUEST, options=OPTIONS)
