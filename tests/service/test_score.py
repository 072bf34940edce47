"""Scoring over HTTP: the goldens' scores, merges, ids, independence of what should not matter."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.contract.pricing import formula_of
from msd.contract.request import Candidates, InvalidRequest, ScoreRequest, check_pricing
from tests.bundles.factory import AT, ITEMS, build_bundle, golden_requests
from tests.bundles.ranker_graph import Recipe
from tests.service.live import LiveService, live_service

CLOSE = 1e-6


@pytest.fixture(scope="module")
def client(service: LiveService) -> Iterator[httpx.Client]:
    with service.client() as kept:
        yield kept


def scores(client: httpx.Client, ids: Sequence[str], **more: Any) -> dict[str, float]:  # noqa: ANN401
    """pCTR by id; duplicates have to agree."""
    answer = client.post("/v1/score", json={"user_id": "u1", "at": AT, "candidates": {"id": ids}, **more})
    assert answer.status_code == 200, answer.text
    columns = answer.json()["candidates"]
    assert columns["id"] == list(ids)
    found: dict[str, float] = {}
    for one, pctr in zip(ids, columns["pctr"], strict=True):
        assert found.setdefault(one, pctr) == pytest.approx(pctr, abs=CLOSE)
    return found


def test_reply_names_the_model_and_degradation(client: httpx.Client) -> None:
    answer = client.post("/v1/score", json=golden_requests()[3]).json()

    assert answer["model_version"] == "test-0"
    assert answer["degraded"] == {"user": "unknown", "candidates": {"new ad": "category_prior"}, "history": 1}
    assert len(answer["candidates"]["id"]) == 1


@pytest.mark.parametrize("explain", [False, True])
def test_unknown_items_of_the_requests_history_are_counted_once_each(client: httpx.Client, explain: bool) -> None:
    """Explanations are made by Python, the rest by the core."""
    request = {"user_id": "u1", "at": AT, "candidates": {"id": ["i1"]}, "explain": explain}
    history = ["i8", "gone", "gone", {"item_id": "lost", "clicked": False}]

    assert client.post("/v1/score", json={**request, "user": {"history": history}}).json()["degraded"] == {"history": 2}
    assert "degraded" not in client.post("/v1/score", json=request | {"user": {"history": ["i8"]}}).json()


def test_slot_is_the_place_that_is_scored_for(client: httpx.Client) -> None:
    """By the core, and by Python, which explains."""
    body = {"user_id": "u1", "at": AT, "candidates": {"id": ["i1", "i2"]}}

    def scores(**more: Any) -> list[float]:  # noqa: ANN401
        found: list[float] = client.post("/v1/score", json=body | more).json()["candidates"]["pctr"]
        return found

    first, second = scores(), scores(slot=2)
    assert scores(slot=1) == first
    assert all(one != other for one, other in zip(first, second, strict=True))
    assert scores(slot=2, explain=True) == pytest.approx(second, abs=CLOSE)


def test_page_has_the_best_candidates_for_each_place(client: httpx.Client) -> None:
    """As if each place were asked for alone, and all else stays as it is; once more in Python, which explains."""
    body = {"user_id": "u1", "at": AT, "candidates": {"id": [f"i{n}" for n in range(40)], "bid": [1.0] * 39 + [None]}}

    def ask(**more: Any) -> dict[str, Any]:  # noqa: ANN401
        found: dict[str, Any] = client.post("/v1/score", json=body | more).json()
        return found

    for first, asked in ((1, {}), (7, {"slot": 7, "explain": True})):
        reply, ranked = ask(page=3, **asked), ask(top_k=40, slot=first)["candidates"]
        page = reply["page"]
        assert (page["id"], page["slot"]) == (ranked["id"][:3], [first, first + 1, first + 2])
        assert reply["candidates"] == ask(**asked)["candidates"]
        for place in range(3):
            there = ask(slot=first + place)["candidates"]
            own = there["id"].index(page["id"][place])
            for column in ("pctr", "pcvr"):
                assert page[column][place] == pytest.approx(there[column][own], abs=CLOSE)
            assert page["ecpm"][place] == pytest.approx(1_000 * page["pctr"][place])
        assert page["total_ecpm"] == pytest.approx(sum(page["ecpm"]))
        assert len(set(page["pctr"])) == 3
    assert ask(page=3, top_k=1)["page"] == ask(page=3)["page"]

    body["candidates"] = {"id": ["i1", "i2", "i1"], "bid": [1.0, None, 2.0]}
    few = ask(page=32)["page"]
    assert (few["id"], few["slot"], few["total_ecpm"]) == (["i1", "i1", "i2"], [1, 2, 3], None)


def test_pricing_decides_what_a_bid_is_worth_and_the_core_leaves_it_to_python(client: httpx.Client) -> None:
    bids = {"id": ["i1", "i2", "i3"], "bid": [2.0, 2.0, 2.0]}
    body: dict[str, Any] = {"user_id": "u1", "at": AT, "candidates": bids}
    plain = client.post("/v1/score", json=body).json()["candidates"]
    body["candidates"] = {**bids, "pricing": ["cpm", "cpc", "cpa"]}
    priced = client.post("/v1/score", json=body).json()["candidates"]
    ranked = client.post("/v1/score", json={**body, "top_k": 2}).json()["candidates"]

    assert priced["pctr"] == pytest.approx(plain["pctr"], abs=CLOSE)
    assert client.get("/v1/model").json()["pricing"] == {"cpm": [], "cpc": ["pctr"], "cpa": ["pctr", "pcvr"]}
    paid = [2.0, 2000 * priced["pctr"][1], 2000 * priced["pctr"][2] * priced["pcvr"][2]]
    assert priced["ecpm"] == pytest.approx(paid)
    assert ranked["ecpm"] == pytest.approx(sorted(paid, reverse=True)[:2])


def test_pricing_without_its_heads_is_refused_with_what_there_is() -> None:
    request = ScoreRequest(user_id="u", candidates=Candidates(id=["i1", "i2"], bid=[1.0, 1.0], pricing=["cpc", "cpa"]))

    with pytest.raises(InvalidRequest, match="is cpa, and this model prices cpm, cpc") as failed:
        check_pricing(request, formula_of(("pctr",)))
    assert failed.value.field == "candidates.pricing.1"
    check_pricing(request, formula_of(("pctr", "pcvr")))


@pytest.mark.parametrize(
    ("pricing", "field", "words"),
    [
        (["cpm", "cpx"], "candidates.pricing.1", "'cpm', 'cpc' or 'cpa'"),
        (["cpm", None], "candidates.pricing.1", "'cpm', 'cpc' or 'cpa'"),
        (["cpm"], "candidates.pricing", "has 1 entries, and candidates.id has 2"),
        ("cpc", "candidates.pricing", "list"),
    ],
)
def test_wrong_pricing_is_refused(client: httpx.Client, pricing: object, field: str, words: str) -> None:
    candidates = {"id": ["i1", "i2"], "bid": [1.0, 1.0], "pricing": pricing}
    answer = client.post("/v1/score", json={"user_id": "u1", "candidates": candidates})

    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == field
    assert words in answer.json()["error"]["message"]


@settings(max_examples=25)
@given(
    chosen=st.lists(st.integers(0, ITEMS + 5), min_size=1, max_size=40),
    others=st.lists(st.integers(0, ITEMS + 5), max_size=60),
    seed=st.integers(0, 2**16),
)
def test_scores_depend_on_nothing_but_the_candidate(
    client: httpx.Client, chosen: list[int], others: list[int], seed: int
) -> None:
    ids = [f"i{place}" for place in chosen]
    mixed = ids + ids[:3] + [f"i{place}" for place in others]
    random.Random(seed).shuffle(mixed)
    alone, among = scores(client, ids), scores(client, mixed)

    for id_ in ids:
        assert among[id_] == pytest.approx(alone[id_], abs=CLOSE)
    assert scores(client, [ids[0]])[ids[0]] == pytest.approx(alone[ids[0]], abs=CLOSE)


def test_equal_candidates_of_one_request_have_equal_scores(tmp_path: Path) -> None:
    """Twice in it, or without a row and equally described."""
    folder = build_bundle(tmp_path / "bundle", Recipe(places=True)).folder
    ids = ["i1", "new", "i2", "other", "i1", "newer", "i3", "i2", "new", "i1"]
    items = {name: {"features": {"price": 4.5}} for name in ("new", "newer")}
    with live_service(folder, tmp_path) as service:
        reply = service.score({"user_id": "u1", "at": AT, "candidates": {"id": ids}, "items": items}).json()
    for column in ("pctr", "pcvr"):
        by_kind: dict[str, set[float]] = {}
        for name, score in zip(ids, reply["candidates"][column], strict=True):
            by_kind.setdefault(name.replace("newer", "new"), set()).add(score)
        assert {kind: len(scores) for kind, scores in by_kind.items()} == dict.fromkeys(by_kind, 1)


def test_reply_has_server_timing(client: httpx.Client) -> None:
    answer = client.post("/v1/score", json=golden_requests()[4])
    stages = dict(part.strip().split(";dur=") for part in answer.headers["server-timing"].split(","))
    taken = {name: float(milliseconds) for name, milliseconds in stages.items()}

    assert list(taken) == ["parse", "rows", "queue", "run", "total"]
    timing = client.post("/v1/score", json={**golden_requests()[0], "explain": True}).headers["server-timing"]
    assert timing.split(", ")[-1].startswith("explain;dur=")
    assert all(milliseconds >= 0 for milliseconds in taken.values())
    assert sum(taken.values()) - taken["total"] <= taken["total"] + 0.01


@pytest.mark.parametrize("given_id", ["abc-1", "with space", "~" * 128])
def test_request_id_is_honoured(client: httpx.Client, given_id: str) -> None:
    answer = client.post("/v1/score", json=golden_requests()[1], headers={"X-Request-Id": given_id})

    assert (answer.headers["x-request-id"], answer.json()["request_id"]) == (given_id, given_id)


@pytest.mark.parametrize("given_id", [b"", b"x" * 129, b"caf\xe9", b"tab\there"])
def test_any_other_request_id_is_replaced(client: httpx.Client, given_id: bytes) -> None:
    headers = {b"X-Request-Id": given_id, b"Content-Type": b"application/json"}
    answer = client.post("/v1/score", content=b"{}", headers=headers)

    assert answer.status_code == 422
    assert answer.headers["x-request-id"].isalnum()
    assert len(answer.headers["x-request-id"]) == 32


def test_category_that_nobody_has_seen_is_declared(client: httpx.Client) -> None:
    asked = {"user_id": "u1", "context": {"hour": "thirteen"}, "candidates": {"id": ["i1"]}}
    reply = client.post("/v1/score", json=asked)
    assert reply.status_code == 200
    assert reply.json()["degraded"]["values"] == {"context.hour": "unknown"}
    known = client.post("/v1/score", json={**asked, "context": {"hour": None}}).json()
    assert "values" not in known.get("degraded", {})
