"""POST /v1/openrtb: scores equal to the bit those of /v1/score; without consent nothing about the user counts."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from msd.contract.bundle import MANIFEST, Manifest, open_bundle
from operations.replay.log import replay_log
from service.deployment.bundle_folder import EXPERIMENT
from tests.bundles.factory import AT, build_bundle, reseal
from tests.bundles.ranker_graph import Recipe
from tests.contract.bid_requests import CANDIDATES, CONTEXTS, IDS, MAPPING, bid_request, tcf
from tests.service.bundle_folders import point
from tests.service.live import LiveService, live_service
from tests.service.request_log.log import awaited

ID = {"X-Request-Id": "fixed"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = build_bundle(tmp_path_factory.mktemp("openrtb") / "bundle").folder
    reseal(made, openrtb=MAPPING)
    return made


@pytest.fixture(scope="module")
def running(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """The bundle served, with live states and a log of all requests."""
    own = tmp_path_factory.mktemp("service")
    options: dict[str, Any] = {
        "live": "on",
        "state_dir": own / "states",
        "log_dir": own / "log",
        "LOG_FLUSH_S": 0.2,
        "log_sample": 1,
    }
    with live_service(folder, own, **options) as service, service.client() as client:
        clicks = [
            {"event_id": f"{user}{n}", "type": "click", "user_id": user, "item_id": f"i{n}", "at": time.time() - 60 + n}
            for user in ("u7", "exchange-7", "6d92078a-8246-4ba4-ae5b-76104861e7dc")
            for n in range(9)
        ]
        assert client.post("/v1/events", json={"events": clicks}).status_code == 202
        yield service


@pytest.fixture(scope="module")
def client(running: LiveService) -> Iterator[httpx.Client]:
    with running.client(headers=ID) as kept:
        yield kept


def asked(request: object = None, **more: object) -> dict[str, object]:
    return {"request": bid_request() if request is None else request, "candidates": CANDIDATES, "at": AT, **more}


def test_pricing_of_candidates_is_as_in_score(client: httpx.Client) -> None:
    one = {"id": ["i1"], "bid": [2.0], "pricing": ["cpa"]}
    found = client.post("/v1/openrtb", json=asked(candidates={"1": one})).json()["imp"]["1"]["candidates"]
    refused = client.post("/v1/openrtb", json=asked(candidates={"1": {**one, "pricing": ["cpx"]}}))

    assert found["ecpm"] == pytest.approx([2000 * found["pctr"][0] * found["pcvr"][0]])
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "candidates.1.pricing.0")


def scored(client: httpx.Client, document: object) -> dict[str, Any]:
    answer = client.post("/v1/openrtb", json=document)
    assert answer.status_code == 200, answer.text
    reply: dict[str, Any] = answer.json()
    return reply


def test_scores_equal_those_of_the_scoring_route_to_the_bit(client: httpx.Client) -> None:
    reply = scored(client, asked(top_k=30))

    assert (reply["id"], reply["consent"], list(reply["imp"])) == ("br-1", True, ["1", "2"])
    for place, imp in enumerate(CANDIDATES):
        same = {"user_id": "u7", "at": AT, "context": CONTEXTS[imp], "candidates": CANDIDATES[imp], "top_k": 30}
        alone = client.post("/v1/score", json=same).json()
        assert reply["imp"][imp] == alone | {"request_id": f"fixed/{place}"}
    assert "degraded" not in reply["imp"]["1"]


def test_without_an_id_the_user_is_anonymous_and_the_rest_counts(client: httpx.Client) -> None:
    withheld = {"devicetype": 4, "ifa": "00000000-0000-0000-0000-000000000000"}
    reply = scored(client, asked(bid_request(user={"id": "", "yob": 1990}, device=withheld)))
    alone = client.post(
        "/v1/score", json={"user_id": None, "at": AT, "context": CONTEXTS["1"], "candidates": CANDIDATES["1"]}
    )

    assert reply["consent"] is True
    assert reply["imp"]["1"] == alone.json() | {"request_id": "fixed/0"}
    assert reply["imp"]["1"]["degraded"]["user"] == "unknown"
    stranger = client.post(
        "/v1/score", json={"user_id": "s", "at": AT, "context": CONTEXTS["1"], "candidates": CANDIDATES["1"]}
    )
    assert stranger.json()["degraded"] == alone.json()["degraded"]


# Whatever else says who somebody is.
PERSONAL = st.fixed_dictionaries(
    {},
    optional={
        "buyeruid": st.sampled_from(["u1", "u7", "u12", "", "?"]) | st.integers() | st.lists(st.integers(), max_size=1),
        "id": st.text(max_size=9),
        "yob": st.integers(1900, 2020) | st.text(max_size=3),
        "gender": st.sampled_from(["F", "M"]),
        "data": st.lists(st.dictionaries(st.text(max_size=3), st.integers(), max_size=2), max_size=2),
        "eids": st.lists(st.text(max_size=4), max_size=2),
    },
)
DEVICE = st.fixed_dictionaries(
    {"devicetype": st.just(4)},
    optional={
        "ifa": st.sampled_from(["6d92078a-8246-4ba4-ae5b-76104861e7dc", "u7"]) | st.uuids().map(str),
        "ip": st.ip_addresses(v=4).map(str),
        "didsha1": st.text("0123456789abcdef", max_size=40),
        "geo": st.fixed_dictionaries({"lat": st.floats(-90, 90), "lon": st.floats(-180, 180)}),
    },
)
REFUSALS: list[dict[str, Any]] = [
    {"regs": {"coppa": 1}},
    {"device": {"lmt": 1}},
    {"device": {"ext": {"atts": 2}}},
    {"regs": {"gdpr": 1}},
    {"regs": {"gdpr": 1}, "user": {"consent": tcf((1, 2, 3))}},
    {"regs": {"us_privacy": "1YYN"}},
    {"regs": {"gpp": "DBABM~?", "gpp_sid": [2]}},
]


@pytest.fixture(scope="module")
def anonymous(client: httpx.Client) -> dict[str, Any]:
    """The one reply that a BidRequest without consent has, whoever it is of."""
    return scored(
        client, asked({"id": "br-1", "imp": bid_request()["imp"], "device": {"devicetype": 4}, "regs": {"coppa": 1}})
    )


@settings(max_examples=60)
@given(user=PERSONAL, device=DEVICE, refusal=st.sampled_from(REFUSALS))
def test_without_consent_scores_do_not_depend_on_who_it_is(
    client: httpx.Client,
    anonymous: dict[str, Any],
    user: dict[str, Any],
    device: dict[str, Any],
    refusal: dict[str, Any],
) -> None:
    parts = {"user": user | refusal.get("user", {}), "device": device | refusal.get("device", {})}

    assert scored(client, asked(bid_request(**parts, regs=refusal.get("regs", {})))) == anonymous
    assert anonymous["consent"] is False


def test_every_part_of_consented_data_counts(client: httpx.Client, anonymous: dict[str, Any]) -> None:
    gdpr = {"regs": {"gdpr": 1}}
    consent = {"consent": tcf()}
    replies = [
        scored(client, asked(bid_request(user=consent | user, **gdpr)))["imp"]["1"]["candidates"]["pctr"]
        for user in ({"buyeruid": "u7"}, {"buyeruid": "u1"}, {"buyeruid": "u7", "yob": 1990}, {"id": "exchange-7"})
    ]

    assert len({tuple(one) for one in [*replies, anonymous["imp"]["1"]["candidates"]["pctr"]]}) == 5


def test_log_names_no_user_and_replays_to_the_bit(running: LiveService, client: httpx.Client, folder: Path) -> None:
    log = running.log_path.parent / "log"
    for name, regs in (("known", {}), ("unknown", {"coppa": 1})):
        answer = client.post("/v1/openrtb", json=asked(bid_request(regs=regs)), headers={"X-Request-Id": name})
        assert answer.status_code == 200
    records = awaited(log, ["known/0", "known/1", "unknown/0", "unknown/1"])
    assert {name: record.user_id for name, record in records.items()} == dict.fromkeys(
        ("known/0", "known/1"), "u7"
    ) | dict.fromkeys(("unknown/0", "unknown/1"), "")
    for name in ("unknown/0", "unknown/1"):
        document = json.loads(records[name].request)
        assert document["user_id"] is None
        assert "temperature" not in document["context"]
        assert not any(who in records[name].request.decode() for who in ("u7", "exchange", "6d92078a", "1990"))
    found = replay_log(log, [open_bundle(folder)], "as logged", None, lambda: None)
    assert (found.mismatches, found.near) == (0, 0)
    assert found.exact > 4


def test_value_that_does_not_fit_counts_as_missing(client: httpx.Client, running: LiveService) -> None:
    before = running.metric("msd_openrtb_unfit_values_total")
    imps: list[dict[str, Any]] = [{"id": "1", "banner": "IAB1"}, {"id": "2", "banner": {"pos": [1] * 1_001}}]
    odd, bare = (
        client.post("/v1/openrtb", json=asked(bid_request(imp=imp, device={"devicetype": kind}))).json()
        for imp, kind in ((imps, 4.5), ([{"id": "1"}, {"id": "2"}], None))
    )
    assert odd == bare
    assert running.metric("msd_openrtb_unfit_values_total") == before + 4


@pytest.mark.parametrize(
    ("changes", "status", "field", "words"),
    [
        ({"candidates": {"3": {"id": ["i1"]}}}, 422, "candidates.3", "is not the ID of an impression"),
        ({"candidates": {"3" * 999: {"id": ["i1"]}}}, 422, f"candidates.{'3' * 60}…", "256 characters"),
        ({"candidates": {}}, 422, "candidates", "should have at least 1 item"),
        ({"candidates": {"1": {"id": []}}}, 422, "candidates.1.id", "at least 1"),
        ({"candidates": {"1": {"id": ["i1"], "bid": [1.0, 2.0]}}}, 422, "candidates.1.bid", "2 entries"),
        ({"candidates": {"1": {"id": ["i1"] * 1_500}, "2": {"id": ["i1"] * 501}}}, 413, "candidates", "2001"),
        ({"candidates": {str(n): {"id": ["i1"]} for n in range(33)}}, 422, "candidates", "33 impressions"),
        ({"candidates": {"1": {"id": [7] * 19_000}}}, 413, "candidates", "19000"),
        ({"candidates": {"1": {"id": [7] * 200_000}}}, 413, None, "20,000 keys and values"),
        ({"candidates": {"1": {str(n): n for n in range(50)}}}, 422, "candidates.1", "50 keys"),
        ({"request": []}, 422, "request", "should be an object"),
        ({"request": bid_request(imp={})}, 422, "request.imp", "list"),
        ({"request": bid_request(imp=[{"id": "1"}, {"id": "1"}])}, 422, "request.imp.1.id", "earlier"),
        ({"request": bid_request(imp=[{"id": 1}])}, 422, "request.imp.0.id", "string"),
        ({"request": bid_request(imp=[5])}, 422, "request.imp.0", "object"),
        ({"request": {"imp": []}}, 422, "request.id", "missing"),
        ({"request": bid_request(user={"buyeruid": 7})}, 422, "request.user.buyeruid", "string"),
        ({"request": bid_request(user={"buyeruid": "x" * 257})}, 422, "request.user.buyeruid", "256"),
        ({"at": -1}, 422, "at", "greater"),
        ({"user": {}}, 422, "user", "not known"),
        ({"request": bid_request(ext={str(n): n for n in range(20_001)})}, 413, None, "20,000"),
    ],
)
def test_invalid_bid_request_is_refused_by_its_field(
    client: httpx.Client, changes: dict[str, object], status: int, field: str | None, words: str
) -> None:
    answer = client.post("/v1/openrtb", json=asked() | changes)
    error = answer.json()["error"]

    assert (answer.status_code, error["field"]) == (status, field), error
    assert words in error["message"]
    assert "Dictionary" not in error["message"]


@pytest.mark.parametrize("yob", ["NaN", '1990, "yob": 1991', "[" * 10_000 + "]" * 10_000], ids=["NaN", "twice", "deep"])
def test_malformed_bid_request_gets_400(client: httpx.Client, yob: str) -> None:
    body = json.dumps(asked()).replace('"yob": 1990', f'"yob": {yob}')
    answer = client.post("/v1/openrtb", content=body, headers={"content-type": "application/json"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed"), answer.text


def test_counts_who_may_be_known(running: LiveService, client: httpx.Client) -> None:
    def counts() -> list[float]:
        return [
            running.metric(f'msd_openrtb_requests_total{{user="{one}"}}') for one in ("given", "missing", "no_consent")
        ]

    before = counts()
    for request in (bid_request(), bid_request(user={}, device={}), bid_request(device={"lmt": 1})):
        scored(client, asked(request))

    assert [after - one for after, one in zip(counts(), before, strict=True)] == [1, 1, 1]


def test_anonymous_users_are_assigned_by_the_request(folder: Path, tmp_path: Path) -> None:
    bundles = tmp_path / "bundles"
    copytree(folder, bundles / "a")
    for bundle in (bundles / "a", build_bundle(bundles / "b", Recipe(seed=1)).folder):
        reseal(bundle, openrtb=MAPPING | {"features": {}})
    point(bundles, "a")
    arms = [{"name": name, "bundle": bundle, "weight": 1} for name, bundle in (("one", "current"), ("two", "b"))]
    (bundles / EXPERIMENT).write_text(json.dumps({"salt": "s", "arms": arms}))
    with live_service(bundles, tmp_path) as running, running.client() as client:
        seen: dict[str, set[str]] = {"known": set(), "anonymous": set()}
        same = dict.fromkeys(CANDIDATES, {"id": IDS[:3]})
        for number in range(20):
            headers = {"X-Request-Id": f"r{number}"}
            for who, regs in (("known", {}), ("anonymous", {"coppa": 1})):
                document = asked(bid_request(regs=regs), candidates=same)
                replies = [client.post("/v1/openrtb", json=document, headers=headers).json() for _ in range(2)]
                assert replies[0] == replies[1]
                for reply in replies[0]["imp"].values():
                    alone = {"user_id": "u7" if who == "known" else None, "at": AT, "candidates": same["1"]}
                    own = {"X-Request-Id": reply["request_id"]}
                    assert client.post("/v1/score", json=alone, headers=own).json() == reply
                    seen[who].add(reply["arm"])
        of_u7 = client.post("/v1/score", json={"user_id": "u7", "candidates": {"id": ["i1"]}}).json()["arm"]

    assert seen == {"known": {of_u7}, "anonymous": {"one", "two"}}


def test_mapping_to_a_feature_that_requests_cannot_give_is_refused(folder: Path) -> None:
    document = json.loads((folder / MANIFEST).read_text("utf-8"))
    document["openrtb"]["features"] = {"position": "imp.banner.pos"}
    with pytest.raises(ValidationError, match="features of the context are: hour, device, temperature"):
        Manifest.model_validate(document)


def test_bundle_without_a_mapping_is_refused_with_the_remedy(service: LiveService) -> None:
    with service.client() as other:
        answer = other.post("/v1/openrtb", json=asked())

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "no_openrtb_mapping"
    assert "[openrtb]" in answer.json()["error"]["message"]
