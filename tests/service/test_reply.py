"""The reply: eCPM, ranking, further heads, degradation only when there is some."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.contract.assemble import Rung, UserRung
from msd.contract.pricing import PRICED, ecpm_of
from msd.contract.request import CheckedRequest
from service.scoring.reply import ScoreReply
from tests.reference.reply import Scored, Scores, reply_document

PCTR = st.floats(0, 1, width=32)
BID = st.none() | st.floats(0, 1e9, width=32)


def as_json(request: CheckedRequest, scored: Scored) -> dict[str, Any]:
    document = reply_document("r", "m", request, scored)
    parsed: dict[str, Any] = orjson.loads(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY))
    return parsed


def reply(
    pctr: list[float],
    bids: list[float | None] | None = None,
    top_k: int | None = None,
    degraded: dict[str, Rung] | None = None,
    degraded_user: UserRung | None = None,
) -> dict[str, Any]:
    """The parsed reply to a request for as many candidates as there are scores."""
    request = CheckedRequest("u", [f"i{place}" for place in range(len(pctr))], bids=bids, top_k=top_k)
    scores: Scores = {"pctr": np.array(pctr, np.float32), "pcvr": np.array(pctr, np.float32)}
    document = as_json(request, Scored(scores, degraded or {}, degraded_user))
    ScoreReply.model_validate(document)
    return document


def test_columns_in_the_requests_order() -> None:
    columns = reply([0.1, 0.3, 0.2], [1.0, None, 2.0])["candidates"]

    assert columns["id"] == ["i0", "i1", "i2"]
    assert columns["ecpm"][1] is None
    assert math.isclose(columns["ecpm"][2], 400.0, rel_tol=1e-6)
    assert list(columns) == ["id", "pctr", "pcvr", "ecpm"]


def test_each_bid_is_worth_what_its_pricing_says() -> None:
    request = CheckedRequest(
        "u", ["m", "c", "a", "n"], bids=[7.0, 0.5, 20.0, None], pricing=["cpm", "cpc", "cpa", "cpa"]
    )
    scores: Scores = {
        "pctr": np.array([0.1, 0.02, 0.04, 0.9], np.float32),
        "pcvr": np.array([0.9, 0.5, 0.025, 0.9], np.float32),
    }
    in_order = as_json(request, Scored(scores))["candidates"]["ecpm"]
    ranked = as_json(replace(request, top_k=4), Scored(scores))["candidates"]

    assert in_order[:3] == pytest.approx([7.0, 1000 * 0.5 * 0.02, 1000 * 20 * 0.04 * 0.025])
    assert in_order[3] is None
    assert ranked["id"] == ["a", "c", "m", "n"]


def test_all_per_click_is_to_the_bit_as_without_pricing() -> None:
    rng = np.random.default_rng(3)
    pctr, bids = rng.random(50, np.float32), rng.uniform(0, 9, 50).tolist()
    scores = {"pctr": pctr}

    assert np.array_equal(ecpm_of(bids, ["cpc"] * 50, scores, PRICED), ecpm_of(bids, None, scores, PRICED))


def test_degradation_is_declared_only_if_there_is_some() -> None:
    assert "degraded" not in reply([0.1])
    assert reply([0.1], degraded_user="unknown")["degraded"] == {"user": "unknown"}
    assert reply([0.1], degraded={"i0": "prior"})["degraded"] == {"candidates": {"i0": "prior"}}


@given(st.lists(st.tuples(PCTR, BID), min_size=1, max_size=30), st.integers(1, 40))
def test_ranking_is_the_head_of_a_sorted_whole(rows: list[tuple[float, float | None]], top_k: int) -> None:
    pctr, bids = [row[0] for row in rows], [row[1] for row in rows]
    whole = reply(pctr, bids)["candidates"]
    ranked = reply(pctr, bids, top_k=top_k)["candidates"]

    def rank(place: int) -> tuple[bool, float]:
        priced = whole["ecpm"][place] is not None
        return not priced, -(whole["ecpm"] if priced else whole["pctr"])[place]

    expected = sorted(range(len(rows)), key=rank)[:top_k]
    assert ranked["id"] == [whole["id"][place] for place in expected]
    for name in ("pctr", "pcvr", "ecpm"):
        assert ranked[name] == [whole[name][place] for place in expected]
