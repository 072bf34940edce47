"""`explain: true` over HTTP: the same scores to the bit, shares that sum to them, effects that can be had otherwise."""

import asyncio
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from msd.contract.bundle import GOLDENS, Bundle
from msd.contract.golden import read_goldens
from msd.contract.rows import RowCodec
from msd.contract.tensors import Tensors
from native.bundle_rows import BundleRows
from service.errors import DeadlineExceeded, Overloaded
from service.routes.explainer import GROUPS, ExplainBudget, Explainer, KnownGroups, shapley
from service.scoring.answer import Explained
from service.scoring.engine import ScoringEngine
from service.scoring.frames import Frames
from service.scoring.model import load_model
from service.scoring.reply import log_odds
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.bundles.factory import AT, golden_requests
from tests.service.live import LiveService, live_service

ASKED: dict[str, Any] = {
    "user_id": "u1",
    "at": AT,
    "context": {"hour": 13, "device": "ios", "temperature": 21.5},
    "candidates": {"id": ["i1", "i2", "i3", "i250"], "bid": [0.4, 1.2, None, 0.7]},
    "user": {"history": ["i7", "?", "i8", "i10"]},
}


@pytest.fixture(scope="module")
def client(service: LiveService) -> Iterator[httpx.Client]:
    with service.client() as kept:
        yield kept


def reply(client: httpx.Client, document: dict[str, Any], **more: Any) -> dict[str, Any]:  # noqa: ANN401
    answer = client.post("/v1/score", json={**document, **more})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def odds(found: dict[str, Any]) -> NDArray[np.float64]:
    return log_odds(np.array(found["candidates"]["pctr"], np.float32))


@pytest.mark.parametrize("document", [*golden_requests(), ASKED])
def test_scores_are_the_same_to_the_bit_and_shares_sum_to_them(client: httpx.Client, document: dict[str, Any]) -> None:
    plain, explained = reply(client, document), reply(client, document, explain=True)
    assert "explanation" not in plain
    explanation = explained.pop("explanation")
    assert {**explained, "request_id": ""} == {**plain, "request_id": ""}
    shares = explanation["shares"]
    assert list(shares) == ["semantic", "id", "dense", "history"]
    base = log_odds(np.array([explanation["base"]], np.float32))
    np.testing.assert_allclose(sum(map(np.array, shares.values())), odds(plain) - base, atol=1e-5)


def test_base_is_the_score_where_nothing_is_known(client: httpx.Client) -> None:
    nothing = reply(client, {"user_id": "nobody", "at": AT, "candidates": {"id": ["nothing"]}}, explain=True)
    assert nothing["explanation"] == {
        "base": pytest.approx(nothing["candidates"]["pctr"][0], abs=1e-6),
        "shares": {"semantic": [0.0], "id": [0.0], "dense": [0.0], "history": [0.0]},
        "history": {"id": [], "effect": [[]]},
    }
    base = reply(client, ASKED, explain=True)["explanation"]["base"]
    assert base == pytest.approx(nothing["candidates"]["pctr"][0], abs=1e-6)


def test_absent_groups_have_no_share(client: httpx.Client) -> None:
    bare = {"user_id": "nobody", "at": AT, "candidates": {"id": ["new"]}, "items": {"new": {"features": {"price": 3}}}}
    shares = reply(client, bare, explain=True)["explanation"]["shares"]
    assert shares["dense"][0] != 0.0
    assert (shares["semantic"], shares["id"], shares["history"]) == ([0.0], [0.0], [0.0])


def test_effect_is_what_the_score_loses_without_the_item(client: httpx.Client) -> None:
    whole = reply(client, ASKED, explain=True)
    history = whole["explanation"]["history"]
    assert history["id"] == ["i7", "i8", "i10"]
    for place, item_id in enumerate(history["id"]):
        kept = [one for one in history["id"] if one != item_id]
        without = reply(client, ASKED, user={"history": kept})
        effects = [row[place] for row in history["effect"]]
        np.testing.assert_allclose(effects, odds(whole) - odds(without), atol=1e-5)
        assert max(map(abs, effects)) > 1e-4


def test_under_top_k_the_explanation_has_the_order_of_the_candidates(client: httpx.Client) -> None:
    whole, ranked = reply(client, ASKED, explain=True), reply(client, ASKED, explain=True, top_k=3)
    places = [whole["candidates"]["id"].index(one) for one in ranked["candidates"]["id"]]
    assert places != [0, 1, 2]
    for group, share in ranked["explanation"]["shares"].items():
        assert share == [whole["explanation"]["shares"][group][place] for place in places]
    effects = whole["explanation"]["history"]["effect"]
    assert ranked["explanation"]["history"]["effect"] == [effects[place] for place in places]


def test_explain_is_a_boolean_or_absent(client: httpx.Client) -> None:
    wrong: list[Any] = ["true", 1, 0, {}, []]
    for value in wrong:
        answer = client.post("/v1/score", json={**ASKED, "explain": value})
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, "explain")
    for absent in (False, None):
        assert "explanation" not in reply(client, ASKED, explain=absent)


def test_more_candidates_than_can_be_explained_are_refused(client: httpx.Client) -> None:
    many = {"user_id": "u1", "candidates": {"id": [f"i{place}" for place in range(201)]}}
    answer = client.post("/v1/score", json={**many, "explain": True})
    assert (answer.status_code, answer.json()["error"]) == (
        413,
        {
            "code": "too_many_candidates",
            "message": "201 candidates; with `explain` one request may have 200: split it",
            "field": "candidates.id",
        },
    )
    assert len(reply(client, many)["candidates"]["id"]) == 201


def test_explanation_that_is_late_is_an_error(bundle: Bundle) -> None:
    metrics = Metrics()
    model = load_model(bundle, Settings(bundle=bundle.folder), metrics)
    engine = ScoringEngine(metrics, 20_000)
    frames = Frames(metrics, 200)
    body = json.dumps(ASKED).encode()
    request = frames.read(model, body)
    assert request is not None
    frame = frames.fill(model, body, asyncio.run(frames.fetch(model, request, math.inf)))
    tensors, shown = frame.copied(), frame.core.shown
    pctr, nothing = model.runtime.run(tensors)["pctr"], frames.unknown(model, AT)

    async def explain(in_s: float, is_partial: bool = False) -> None:
        explained = Explained(model, tensors, nothing, pctr, None, shown, [0], is_partial)
        explainer = Explainer(engine, ExplainBudget(1.0))
        await explainer.explain(explained, time.perf_counter() + in_s, lambda: False)

    asyncio.run(explain(60))
    for in_s, is_partial in ((0.0, False), (60.0, True)):
        with pytest.raises(DeadlineExceeded):
            asyncio.run(explain(in_s, is_partial))
    engine.close()


def test_budget_bounds_the_time_and_the_number_of_explanations() -> None:
    budget = ExplainBudget(0.001)
    budget.check()
    budget.spend(1.0)
    with pytest.raises(Overloaded, match=r"explanations have no time left for 99\d\.\d s"):
        budget.check()
    budget = ExplainBudget(1.0)
    budget.under_way = 3
    budget.check()
    budget.under_way = 4
    with pytest.raises(Overloaded, match="4 explanations are in progress"):
        budget.check()


def test_explanations_beyond_the_budget_are_refused_and_scores_are_not(bundle: Bundle, tmp_path: Path) -> None:
    """Its five seconds' worth are spent by the first explanation, and are there again after hours."""
    with live_service(bundle.folder, tmp_path, explain_share=0.000_001) as service:
        with service.client() as client:
            reply(client, ASKED, explain=True)
            refused = client.post("/v1/score", json={**ASKED, "explain": True})
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
            assert refused.headers["retry-after"] == "1"
            assert "explanations" in refused.json()["error"]["message"]
            reply(client, ASKED)
        assert service.metric('msd_shed_total{reason="explain"}') == 1
        assert service.metric('msd_shed_total{reason="wait"}') == 0


def test_explanations_can_be_switched_off(bundle: Bundle, tmp_path: Path) -> None:
    with live_service(bundle.folder, tmp_path, explain_share=0) as service:
        refused = service.score({**ASKED, "explain": True})
        assert (refused.status_code, refused.json()["error"]) == (
            422,
            {
                "code": "invalid",
                "message": "explanations are disabled on this service (MSD_EXPLAIN_SHARE=0)",
                "field": "explain",
            },
        )
        assert service.score({**ASKED, "explain": False}).status_code == 200


@pytest.fixture(scope="module")
def nothing(bundle: Bundle) -> Tensors:
    """The tensors of a request of which nothing is known."""
    metrics = Metrics()
    return Frames(metrics, 1).unknown(load_model(bundle, Settings(bundle=bundle.folder), metrics), AT)


def codecs(bundle: Bundle) -> tuple[RowCodec, RowCodec]:
    schema, number = bundle.schema, bundle.bundle_id
    return RowCodec(schema, "user", number), RowCodec(schema, "item", number)


def test_each_group_takes_what_its_name_says(bundle: Bundle, nothing: Tensors) -> None:
    schema, golden = bundle.schema, next(read_goldens(bundle.path(GOLDENS)))
    tensors = BundleRows.of(bundle).tensors(golden)
    knowledge = KnownGroups(schema, tensors, nothing)
    assert knowledge.groups == GROUPS
    changed = {
        group: {
            name
            for name, tensor in knowledge.of([g for g in GROUPS if g != group]).items()
            if not np.array_equal(tensor, tensors[name])
        }
        for group in GROUPS
    }
    semantic = {"user_semantic", "item_semantic", "history_semantic", "user_dense", "item_dense"}
    assert changed["semantic"] == semantic
    assert changed["id"] == {"user_categorical", "item_categorical", "history_categorical"}
    assert changed["history"] == {"history_mask", "history_outcomes", "history_categorical", "history_semantic"}
    assert changed["dense"] == {*changed["id"], "user_dense", "item_dense", "context_categorical", "context_dense"}


WORTHS = st.integers(0, 4).flatmap(lambda players: arrays(np.float64, (2**players, 3), elements=st.floats(-9, 9)))


@given(WORTHS)
def test_shares_sum_to_the_total_gain(values: np.ndarray) -> None:
    np.testing.assert_allclose(shapley(values).sum(axis=0), values[-1] - values[0], atol=1e-12)
