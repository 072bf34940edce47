"""Exploration in one service: what it replies and logs is what a replay makes again; what is not allowed is refused;
without an uncertainty the best candidate is first, and the reply says so."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from msd.contract.bundle import Bundle
from msd.contract.uncertainty import Uncertainty
from operations.replay.log import LogReplay, replay_log
from tests.bundles.factory import AT, build_bundle
from tests.bundles.ranker_graph import Recipe
from tests.reference.exploration import (
    CompetingCandidates,
    Exploration,
    choose_first,
    competing,
    probability_of_first,
)
from tests.service.live import live_service
from tests.service.request_log.log import awaited

UNSURE = Uncertainty(new=0.8)
ASKED: dict[str, Any] = {"user_id": "u7", "at": AT, "candidates": {"id": [f"i{n}" for n in range(20)]}}
THOMPSON = {"policy": "thompson"}


@pytest.fixture(scope="module")
def unsure(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_bundle(tmp_path_factory.mktemp("unsure") / "bundle", Recipe(uncertainty=UNSURE))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the client's service logs its requests."""
    return tmp_path_factory.mktemp("explored") / "log"


@pytest.fixture(scope="module")
def client(unsure: Bundle, log: Path) -> Iterator[httpx.Client]:
    """A service that explores at most half of the requests."""
    options: dict[str, Any] = {"log_dir": log, "log_sample": 1, "LOG_FLUSH_S": 0.1}
    with live_service(unsure.folder, log.parent, explore_share=0.5, **options) as running, running.client() as kept:
        yield kept


def scored(client: httpx.Client, explore: object, request_id: str = "r", **changes: object) -> dict[str, Any]:
    answer = client.post(
        "/v1/score", json={**ASKED, **changes, "explore": explore}, headers={"X-Request-Id": request_id}
    )
    assert answer.status_code == 200, answer.text
    reply: dict[str, Any] = answer.json()
    return reply


def test_some_first_candidates_are_explored_and_replayed(client: httpx.Client, unsure: Bundle, log: Path) -> None:
    replies = [scored(client, THOMPSON, f"r{n}", top_k=5) for n in range(60)]
    best = scored(client, {**THOMPSON, "share": 0}, top_k=5)

    explored = [reply for reply in replies if reply["explore"]["explored"]]
    assert 15 < len(explored) < 45
    assert len({one["explore"]["first"] for one in explored}) > 2
    for one in replies:
        explore, ids = one["explore"], one["candidates"]["id"]
        assert ids[0] == explore["first"]
        assert 0 < explore["propensity"] <= 1
        if not explore["explored"]:
            assert ids == best["candidates"]["id"]
            assert explore["propensity"] >= 0.5
        else:
            rest = [one for one in best["candidates"]["id"] if one != ids[0]]
            assert ids[1:4] == rest[:3]
        assert len(one["candidates"]["logit_std"]) == 5
    assert best["explore"]["propensity"] == 1.0

    by_id = awaited(log, [f"r{number}" for number in range(60)])
    for number, one in enumerate(replies):
        record = by_id[f"r{number}"]
        assert record.explore is not None
        assert record.heads[-1] == "logit_std"
        expected = record.explore | {"first": record.item_ids[record.explore["first"]]}
        assert expected == one["explore"]
        assert record.served is not None
        assert record.served[0] == record.explore["first"]
    found = replay_log(log, [unsure], "as logged", None, lambda: None)
    assert (found.exact, found.mismatches) == (found.requests, 0)
    altered = by_id["r0"]
    altered.explore["propensity"] *= 1 + 1e-15  # type: ignore[index]
    altered.explore["propensity"] += 1e-15  # type: ignore[index]
    differs = LogReplay([unsure]).replay([altered], lambda: None)
    assert differs.mismatches == 1
    assert "explores" in differs.differences[0][1]


def test_seed_decides_alone(client: httpx.Client) -> None:
    one, other = (scored(client, {**THOMPSON, "seed": 11}, name)["explore"] for name in ("a", "b"))
    seeds = Counter(scored(client, {**THOMPSON, "seed": n})["explore"]["explored"] for n in range(30))

    assert one == other
    assert one["seed"] == "11"
    assert set(seeds) == {True, False}


@pytest.mark.parametrize("policy", ["thompson", "ucb"])
def test_order_of_keys_does_not_change_the_choice(client: httpx.Client, policy: str) -> None:
    whole = scored(client, {"policy": policy, "seed": 3})
    turned = scored(client, {"seed": 3, "policy": policy, "share": 0.5})

    assert whole == turned
    assert whole["explore"]["policy"] == policy


@pytest.mark.parametrize(
    ("explore", "field"),
    [
        ({"policy": "greedy"}, "explore.policy"),
        ({}, "explore.policy"),
        ({"policy": "thompson", "share": 0.51}, "explore.share"),
        ({"policy": "thompson", "share": -0.1}, "explore.share"),
        ({"policy": "thompson", "share": "0.1"}, "explore.share"),
        ({"policy": "thompson", "seed": 2**53}, "explore.seed"),
        ({"policy": "thompson", "seed": -1}, "explore.seed"),
        ({"policy": "thompson", "seed": 0.5}, "explore.seed"),
        ({"policy": "thompson", "epsilon": 1}, "explore.epsilon"),
        ([], "explore"),
        (True, "explore"),
    ],
)
def test_bad_terms_are_refused(client: httpx.Client, explore: object, field: str) -> None:
    answer = client.post("/v1/score", json={**ASKED, "explore": explore})

    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["field"] == field


def test_without_explore_nothing_is_added(client: httpx.Client, unsure: Bundle, tmp_path: Path) -> None:
    answer = client.post("/v1/score", json=ASKED).json()

    assert "explore" not in answer
    assert "logit_std" not in answer["candidates"]
    assert client.post("/v1/score", json={**ASKED, "explore": None}).json()["candidates"] == answer["candidates"]
    with live_service(unsure.folder, tmp_path) as running, running.client() as plain:
        refused = plain.post("/v1/score", json={**ASKED, "explore": THOMPSON})
        assert refused.status_code == 422
        assert "MSD_EXPLORE_SHARE" in refused.json()["error"]["message"]


def test_without_an_uncertainty_the_best_is_first_or_the_draw_is_uniform(bundle: Bundle, tmp_path: Path) -> None:
    with live_service(bundle.folder, tmp_path, explore_share=0.5) as running, running.client() as client:
        reply = scored(client, THOMPSON, top_k=3)
        explore = reply["explore"]

        assert explore == {
            "policy": "greedy",
            "share": 0.0,
            "seed": "r",
            "explored": False,
            "first": reply["candidates"]["id"][0],
            "propensity": 1.0,
        }
        assert 'msd_explorations_total{result="unavailable"} 1.0' in client.get("/metrics").text
        best, slice_ = explore["first"], [scored(client, {"policy": "uniform"}, f"r{n}")["explore"] for n in range(60)]
        assert scored(client, {"policy": "uniform"}, "r7")["explore"] == slice_[7], "the request's ID decides alone"
        assert 15 < sum(one["explored"] for one in slice_) < 45
        assert len({one["first"] for one in slice_}) > 10
        for one in slice_:
            assert one["propensity"] == 0.5 * (one["first"] == best) + 0.5 / 20
            assert one["explored"] or one["first"] == best


N = 6


def some(seed: int = 0, count: int = N, certain: int = 0) -> CompetingCandidates:
    rng = np.random.default_rng(seed)
    std = rng.uniform(0.1, 0.8, count)
    std[:certain] = 0.0
    return CompetingCandidates(np.arange(count), rng.normal(0, 0.3, count), rng.normal(-2, 0.4, count), std)


@pytest.mark.parametrize("certain", [0, 1, 3, N])
def test_probabilities_are_the_frequencies_of_draws(certain: int) -> None:
    candidates = some(certain, certain=certain)
    draws = np.random.default_rng(1).standard_normal((200_000, N))
    values = candidates.log_scale - np.logaddexp(0, -(candidates.logit + candidates.std * draws))
    frequency = np.bincount(values.argmax(1), minlength=N) / len(draws)
    found = np.array([probability_of_first(candidates, one) for one in range(N)])

    assert found.sum() == pytest.approx(1, abs=1e-5)
    # Of 200,000 draws a share has a standard error of at most .0011.
    assert np.abs(found - frequency).max() < 0.005


def test_equal_seeds_choose_alike_and_the_share_is_kept() -> None:
    candidates, greedy = some(), 2
    choices = [choose_first(Exploration("thompson", 0.3, f"r{n}"), candidates, greedy) for n in range(4_000)]
    again = [choose_first(Exploration("thompson", 0.3, f"r{n}"), candidates, greedy) for n in range(50)]

    assert again == choices[:50]
    # Of 4,000 the share has a standard error of .007.
    assert 0.27 < np.mean([choice.explored for choice in choices]) < 0.33
    shown = np.bincount([choice.first for choice in choices], minlength=N) / len(choices)
    expected = {choice.first: choice.propensity for choice in choices}
    for place, propensity in expected.items():
        assert shown[place] == pytest.approx(propensity, abs=0.03)
    assert sum(1 / choice.propensity for choice in choices if choice.first == 1) / len(choices) == pytest.approx(
        1, abs=0.35
    )


def test_draws_do_not_change_between_releases() -> None:
    choices = [choose_first(Exploration("thompson", 1.0, f"r{n}"), some(), 0) for n in range(12)]

    assert [choice.first for choice in choices] == DRAWN


DRAWN = [1, 4, 1, 5, 1, 1, 5, 1, 1, 5, 1, 1]


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_ucb_takes_the_upper_end_with_the_probability_of_its_share(share: float) -> None:
    candidates = CompetingCandidates(np.arange(2), np.zeros(2), np.array([-1.0, -1.2]), np.array([0.1, 0.8]))
    for n in range(40):
        choice = choose_first(Exploration("ucb", share, f"{n}"), candidates, 0)
        assert choice.first == (1 if choice.explored else 0)
        assert choice.propensity == pytest.approx(share if choice.explored else 1 - share)


def columns(count: int, **changes: object) -> dict[str, Any]:
    made: dict[str, Any] = {
        "ids": [f"i{n}" for n in range(count)],
        "pctr": np.full(count, 0.1, np.float32),
        "std": np.full(count, 0.5, np.float32),
        "ecpm": np.full(count, np.nan),
        "is_paid_by_click": np.ones(count, bool),
    }
    return made | changes


def test_only_priced_candidates_compete_and_only_click_prices_are_uncertain() -> None:
    ecpm = np.array([np.nan, 50.0, 0.0, 80.0])
    found = competing(**columns(4, ecpm=ecpm, is_paid_by_click=np.array([True, True, True, False])))

    assert found.places.tolist() == [1, 2, 3]
    assert found.std.tolist() == [0.5, 0.0, 0.0]
    assert np.exp(found.log_value(0.0)) == pytest.approx([50.0, 0.0, 80.0])
    assert competing(**columns(3)).places.tolist() == [0, 1, 2]


def test_impressions_reduce_uncertainty() -> None:
    uncertainty = Uncertainty(new=0.6)
    std = uncertainty.logit_std(np.array([0.0, 10.0, 1_000.0, 1e9]), np.full(4, 0.1, np.float32))

    assert std.dtype == np.float32
    assert std[0] == pytest.approx(np.hypot(0.6, 0.12))
    assert (np.diff(std) < 0).all()
    assert std[-1] == pytest.approx(0.12, abs=1e-3)
