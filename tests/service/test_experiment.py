"""Bundles side by side: each user is scored by one arm, as its weights say, and they change while the service runs."""

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logit  # type: ignore[import-untyped]

from msd.contract.bundle import Bundle
from service.deployment.bundle_folder import EXPERIMENT
from service.scoring.deployment import UserSplit
from tests.bundles.factory import AT
from tests.service.bundle_folders import first_golden, two_bundles
from tests.service.live import LiveService, live_service, wait_until

USERS = [f"u{number}" for number in range(60)]


@pytest.fixture(scope="module")
def bundles(bundle: Bundle, other_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_bundles(tmp_path_factory.mktemp("source"), bundle, other_bundle)


@pytest.fixture(scope="module")
def running(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    with live_service(bundles, tmp_path_factory.mktemp("service"), workers=2) as service:
        yield service


def experiment(bundles: Path, weights: tuple[float, float], **changes: Any) -> None:  # noqa: ANN401
    arms = [
        {"name": "champion", "bundle": "current", "weight": weights[0]},
        {"name": "next", "bundle": "b", "weight": weights[1]},
    ]
    fresh = bundles / ".fresh"
    fresh.write_text(json.dumps({"salt": "s", "arms": arms, **changes}))
    fresh.replace(bundles / EXPERIMENT)


def generation(service: LiveService) -> float:
    """Of the deployment that is served."""
    with service.client() as client:
        return float(client.get("/v1/model").json()["lineup"]["generation"])


def arms(service: LiveService) -> dict[str, str]:
    """The arm of each user, by either worker, which has to be the same."""
    found: dict[str, str] = {}
    with service.client() as first, service.client() as second:
        for user in USERS:
            for client in (first, second):
                document = {"user_id": user, "at": AT, "candidates": {"id": ["i1"]}}
                reply = client.post("/v1/score", json=document).json()
                assert reply["model_version"] == {"champion": "test-0", "next": "test-1"}[reply["arm"]]
                assert found.setdefault(user, reply["arm"]) == reply["arm"]
    return found


def test_weights_change_while_it_runs(running: LiveService, bundles: Path) -> None:
    assert "arm" not in running.score({"user_id": "u1", "candidates": {"id": ["i1"]}}).json()
    dealt = []
    for weights in ((9, 1), (1, 1), (0, 1)):
        before = generation(running)
        experiment(bundles, weights)
        wait_until(lambda: generation(running) > before)  # noqa: B023
        dealt.append(arms(running))
    few, half, all_of_them = dealt
    assert 0 < Counter(few.values())["next"] < Counter(half.values())["next"] < len(USERS)
    assert set(all_of_them.values()) == {"next"}
    # A weight that rises moves users into its arm alone.
    assert all(half[user] == "next" for user, arm in few.items() if arm == "next")
    wait_until(lambda: running.metric("msd_queued_rows") == 0)  # all requests are counted
    assert running.metric('msd_arm_requests_total{slot="2"}') > len(USERS)
    total = sum(running.metric(f'msd_arm_requests_total{{slot="{slot}"}}') for slot in range(1, 9))
    assert total == 6 * len(USERS)
    with running.client() as client:
        lineup, exposed = client.get("/v1/model").json()["lineup"], client.get("/metrics").text
    assert lineup["generation"] == generation(running)
    assert [(arm["name"], arm["model_version"], arm["share"]) for arm in lineup["arms"]] == [
        ("champion", "test-0", 0.0),
        ("next", "test-1", 1.0),
    ]
    assert 'msd_arm_share{arm="next",bundle_id="' in exposed
    assert exposed.count("msd_bundle_info{") == 2
    # One bundle more was loaded, once, whatever became of the weights.
    assert [line["event"] for line in running.log()].count("model_loaded") == 1


def test_invalid_experiment_changes_nothing(running: LiveService, bundles: Path) -> None:
    before = generation(running)
    experiment(bundles, (1, 1))
    wait_until(lambda: generation(running) > before)
    refused = running.metric('msd_swaps_total{result="refused"}')
    experiment(bundles, (1, 1), salt=7)
    wait_until(lambda: running.metric('msd_swaps_total{result="refused"}') == refused + 1)
    assert set(arms(running).values()) == {"champion", "next"}
    (bundles / EXPERIMENT).unlink()
    wait_until(lambda: "arm" not in running.score({"user_id": "u1", "candidates": {"id": ["i1"]}}).json())
    wait_until(lambda: running.metric("msd_bundle_refused") == 0)


def let_shadow(service: LiveService, bundles: Path) -> None:
    """Let `b` shadow `a`, which scores all."""
    alone = [{"name": "champion", "bundle": "current", "weight": 1}]
    experiment(bundles, (0, 0), arms=alone, shadow=[{"name": "dark", "bundle": "b"}])
    with service.client() as client:
        wait_until(lambda: client.get("/v1/model").json()["lineup"]["shadow"])


def test_shadow_scores_what_is_left_over_and_nobody_sees_it(
    running: LiveService, bundles: Path, bundle: Bundle, other_bundle: Bundle
) -> None:
    let_shadow(running, bundles)
    golden, other = first_golden(bundle), first_golden(other_bundle)
    count, before = len(golden.expected["pctr"]), shadowed(running)
    shifts = [running.metric(f'msd_shadow_shift_{name}{{slot="1"}}') for name in ("count", "sum")]
    for _ in range(10):
        answer = running.score({**golden.request, "top_k": None}).json()
        assert answer["candidates"]["pctr"] == pytest.approx(golden.expected["pctr"], abs=1e-5)
        assert "arm" not in answer
    wait_until(lambda: (shadowed(running) - before).total() == 10)
    scored = (shadowed(running) - before)["scored"]
    assert (shadowed(running) - before)["failed"] == 0
    assert scored > 0
    assert running.metric('msd_shadow_shift_count{slot="1"}') - shifts[0] == scored * count
    apart = np.abs(logit(golden.expected["pctr"]) - logit(other.expected["pctr"])).sum()
    assert running.metric('msd_shadow_shift_sum{slot="1"}') - shifts[1] == pytest.approx(scored * apart, rel=1e-3)
    assert running.metric('msd_shadow_shift_count{slot="2"}') == 0


def test_shadow_makes_nobody_wait_and_what_it_misses_is_counted(running: LiveService, bundles: Path) -> None:
    let_shadow(running, bundles)
    before, counted = shadowed(running), running.metric('msd_requests_total{code="200"}')
    request = {"user_id": "u1", "at": AT, "candidates": {"id": [f"i{number}" for number in range(200)]}}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(running.score, [request] * 80))
    assert {answer.status_code for answer in answers} == {200}
    # A reply is counted once it is sent, and another worker may be asked before.
    wait_until(lambda: running.metric('msd_requests_total{code="200"}') == counted + 80)
    wait_until(lambda: (shadowed(running) - before).total() == 80)
    assert (shadowed(running) - before)["busy"] > 0
    wait_until(lambda: running.metric("msd_queued_rows") == 0)


def shadowed(service: LiveService) -> Counter[str]:
    results = ("scored", "busy", "failed")
    return Counter(
        {result: int(service.metric(f'msd_shadow_requests_total{{result="{result}"}}')) for result in results}
    )


DEALT = [f"u{number}" for number in range(300)]
WEIGHTS = st.lists(st.floats(0.01, 100), min_size=2, max_size=8)


def places(salt: str, weights: list[float], names: str = "abcdefgh") -> list[str]:
    """The name that each user falls to."""
    split = UserSplit(salt, names, [*weights, *[0.0] * (len(names) - len(weights))])
    return [names[split.place_of(user)] for user in DEALT]


@settings(max_examples=40)
@given(WEIGHTS, st.data(), st.floats(1.01, 50), st.text(max_size=9))
def test_ramp_moves_users_into_its_arm_alone(
    weights: list[float], data: st.DataObject, factor: float, salt: str
) -> None:
    risen = data.draw(st.integers(0, len(weights) - 1))
    more = [weight * factor if place == risen else weight for place, weight in enumerate(weights)]

    name = "abcdefgh"[risen]
    for before, after in zip(places(salt, weights), places(salt, more), strict=True):
        assert after in (before, name)


@settings(max_examples=40)
@given(WEIGHTS)
def test_arm_that_goes_leaves_the_others_users_where_they_are(weights: list[float]) -> None:
    before, after = places("s", weights), places("s", weights[:-1])
    gone = "abcdefgh"[len(weights) - 1]

    assert all(one == other for one, other in zip(before, after, strict=True) if one != gone)
    assert gone not in after


@pytest.mark.parametrize("weights", [(1.0, 1.0), (9.0, 1.0), (1.0, 2.0, 5.0), (0.0, 3.0, 1.0)])
def test_shares_are_those_of_the_weights(weights: tuple[float, ...]) -> None:
    count = 20_000
    split = UserSplit("salt", [f"arm{place}" for place in range(len(weights))], weights)
    found = Counter(split.place_of(f"user-{number}") for number in range(count))
    for place, share in enumerate(split.shares):
        # Four standard deviations; the users are always the same.
        assert abs(found[place] - count * share) <= 4 * (count * share * (1 - share)) ** 0.5


def test_another_salt_deals_anew() -> None:
    first, second = places("one", [1, 1]), places("other", [1, 1])

    assert 0.35 < sum(a == b for a, b in zip(first, second, strict=True)) / len(DEALT) < 0.65


def test_assignment_does_not_change() -> None:
    """A release that assigned users anew would spoil running experiments."""
    assert "".join(places("s", [1, 2], "ab"))[:16] == "bbbaabaabbbabbbb"
