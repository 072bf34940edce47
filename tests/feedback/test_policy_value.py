"""`msd join --by policy`: estimates contain the value of a known law, and equal those of the Open Bandit library."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from msd.feedback.files import FeedbackError
from msd.feedback.policy_value import ExploredRequests, Rewards, explored_requests, read_target, support, value_of
from tests.feedback.made import events, requests
from tests.feedback.test_join_command import run
from tests.reference.exploration import Exploration, choose_first, competing

RECORDED = json.loads((Path(__file__).parent / "open_bandit.json").read_text("utf-8"))


def law(seed: int, requests: int = 2_000, bias: float = 0.0, wrong: float = 1.0) -> tuple[ExploredRequests, float]:
    """Explored requests of users who click unlike each other, and the value of the target, the best of 4 candidates.

    `bias` is added to the model's predictions; propensities are multiplied by `wrong`.
    """
    rng = np.random.default_rng(seed)
    users = rng.integers(0, requests // 4, requests)
    chances = np.clip(rng.uniform(0.02, 0.3, (requests, 4)) + rng.normal(0, 0.05, requests // 4)[users, None], 0.01, 1)
    policy = rng.dirichlet(np.full(4, 2.0), requests) * 0.8 + 0.05
    cut = policy.cumsum(1)
    shown = (rng.random(requests)[:, None] > cut).sum(1).clip(max=3)
    place, target = np.arange(requests), chances.argmax(1)
    clicked = (rng.random(requests) < chances[place, shown]).astype(float)
    predicted = chances + bias
    rewards = Rewards(clicked, predicted[place, shown], predicted[place, target])
    rows = ExploredRequests(users, wrong * policy[place, shown], (shown == target).astype(float), {"ctr": rewards})
    return rows, float(chances[place, target].mean())


@pytest.mark.parametrize("bias", [0.0, 0.2])
def test_intervals_contain_the_value_at_the_nominal_rate(bias: float) -> None:
    covered = np.zeros(3)
    errors = np.zeros((60, 3))
    for seed in range(60):
        rows, value = law(seed, bias=bias)
        found = value_of(rows, "ctr", resamples=200)[1:]
        covered += [one.ci95[0] <= value <= one.ci95[1] for one in found]
        errors[seed] = [one.value - value for one in found]

    # Of 60 at 95 % fewer than 51 hold it once in 2,000.
    assert (covered >= 51).all()
    # A wrong model leaves DR unbiased, because the propensities are right.
    assert (np.abs(errors.mean(0)) < 4 * errors.std(0) / np.sqrt(60)).all()


def test_wrong_propensities_and_impossible_targets_have_no_support() -> None:
    rows = law(1)[0]
    assert support(rows).is_whole
    assert not support(law(1, wrong=0.7)[0]).is_whole, "wrong propensities"
    never = ExploredRequests(rows.users, rows.propensity, 0 * rows.target, rows.rewards)

    assert not support(never).is_whole
    assert support(never).effective == 0
    assert np.isnan(value_of(never, "ctr").snips.value)


def test_served_policy_has_the_logged_mean() -> None:
    rows = law(2)[0]
    same = ExploredRequests(rows.users, rows.propensity, rows.propensity, rows.rewards)
    found = value_of(same, "ctr")

    assert found.ips == found.snips == found.logged
    assert support(same).effective == pytest.approx(len(rows.users))


def test_estimates_equal_open_bandits_library() -> None:
    predicted = np.array(RECORDED["predicted"])
    item, _, click, propensity = (np.array(column) for column in zip(*RECORDED["rows"], strict=True))
    count = len(item)
    rewards = Rewards(click.astype(float), predicted[item], np.full(count, predicted.mean()))
    rows = ExploredRequests(np.arange(count), propensity, np.full(count, 1 / len(predicted)), {"ctr": rewards})
    found = value_of(rows, "ctr", resamples=50)

    for name, expected in RECORDED["estimates"].items():
        assert getattr(found, name).value == pytest.approx(expected, abs=1e-9)
    assert found.ips.value > 0.01, "the clicks are among the rows"


CHOICE = {"policy": "thompson", "share": 0.5, "seed": "r", "explored": True, "first": 0, "propensity": 0.5}


def explored(count: int) -> tuple[pl.DataFrame, pl.DataFrame, float]:
    """A log of requests that explore, its events, and what the best by score would have been clicked."""
    rng = np.random.default_rng(0)
    logged: list[dict[str, Any]] = []
    shown: list[tuple[Any, ...]] = []
    value = 0.0
    for n in range(count):
        pctr = rng.uniform(0.1, 0.3, 3).astype(np.float32)
        true = 1 / (1 + np.exp(-(np.log(pctr / (1 - pctr)) + rng.normal(0, 0.5, 3))))
        ids, none = ["a", "b", "c"], np.full(3, np.nan)
        candidates = competing(ids, pctr, np.full(3, 0.5, np.float32), none, np.ones(3, bool))
        choice = choose_first(Exploration("thompson", 0.5, f"r{n}"), candidates, int(pctr.argmax()))
        value += true[pctr.argmax()] / count
        logged.append(logged_request(n, pctr, choice._asdict()))
        shown.append(("impression", ids[choice.first], n, f"r{n}"))
        if rng.random() < true[choice.first]:
            shown.append(("click", ids[choice.first], n + 1, f"r{n}"))
    return requests(*logged), events(*shown), value


def logged_request(n: int, pctr: Any, explore: dict[str, Any] | None) -> dict[str, Any]:  # noqa: ANN401
    own = {"request_id": f"r{n}", "received_at": float(n), "at": float(n), "user_id": f"u{n % 400}"}
    scores = {"heads": ["pctr", "logit_std"], "scores": [list(map(float, pctr)), [0.5] * 3]}
    return {**own, **scores, "item_ids": ["a", "b", "c"], "bids": None, "pricing": None, "explore": explore}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A log's folder, and the value of its greedy policy."""
    folder = tmp_path_factory.mktemp("explored")
    logged, shown, value = explored(3_000)
    logged.write_parquet(folder / "requests-1.parquet")
    shown.write_parquet(folder / "events-1.parquet")
    return folder, value


def is_near(estimate: dict[str, Any], value: float) -> bool:
    """Whether a value is in an interval of twice the width of that for 95 %: four standard errors."""
    low, high = estimate["ci95"]
    return bool(abs(value - (low + high) / 2) < high - low)


def test_greedy_policy_is_estimated(log: tuple[Path, float], capsys: pytest.CaptureFixture[str]) -> None:
    folder, value = log
    assert run(folder, "--settle-hours", 0, "--by", "policy", "--json") == 0
    found = json.loads(capsys.readouterr().out)

    for estimator in ("ips", "snips", "dr"):
        assert is_near(found["values"]["ctr"][estimator], value), estimator
    assert found["support"]["weight"]["ci95"][0] < 1 < found["support"]["weight"]["ci95"][1]
    assert found["told"]["used_requests"] == 3_000
    assert run(folder, "--settle-hours", 0, "--by", "policy") == 0
    out = capsys.readouterr().out
    assert "SNIPS" in out
    assert "as it should be" in " ".join(out.split())


def test_policy_file_is_estimated(log: tuple[Path, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "target.jsonl"
    target.write_text("".join(json.dumps({"request_id": f"r{n}", "item_id": "b"}) + "\n" for n in range(2_000)))
    assert run(log[0], "--settle-hours", 0, "--by", "policy", "--target", target, "--json") == 0
    found = json.loads(capsys.readouterr().out)

    assert found["told"]["requests_not_in_the_target"] == 1_000
    assert found["told"]["used_requests"] == 2_000
    # "b" is as good as any: its click rate is the mean of all.
    assert is_near(found["values"]["ctr"]["dr"], 0.2)


def test_unknown_estimates_are_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The policy never chose what was shown, and there is one user to resample."""
    logged, shown, _ = explored(1)
    other = logged["item_ids"].to_list()[0][logged["explore"].to_list()[0]["first"] - 1]
    logged.write_parquet(tmp_path / "requests-1.parquet")
    shown.write_parquet(tmp_path / "events-1.parquet")
    target = tmp_path / "target.jsonl"
    target.write_text(json.dumps({"request_id": "r0", "item_id": other}))
    assert run(tmp_path, "--settle-hours", 0, "--by", "policy", "--target", target, "--json") == 0

    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["values"]["ctr"]["snips"]["value"] is None
    assert found["values"]["ctr"]["ips"]["value"] == 0
    assert found["support"]["effective"] == 0


def joined(shown: list[tuple[str, str]]) -> pl.DataFrame:
    ids = pl.DataFrame(shown, ["request_id", "item_id"], orient="row")
    return ids.with_columns(label=1, pricing=pl.lit("cpc"), bid=pl.lit(None, pl.Float64))


@pytest.mark.parametrize(
    ("changes", "choice", "target", "words"),
    [
        *(
            ({}, {"propensity": one}, None, "request r0: propensity")
            for one in (0.0, -0.1, math.nan, math.inf, 1.5, None)
        ),
        ({"explore": "thompson"}, {}, None, "column explore"),
        ({"pricing": ["cpa"] * 3, "bids": [1.0] * 3}, {}, None, "do not price"),
        ({"heads": ["pcvr", "logit_std"]}, {}, None, "do not price"),
        ({}, {"first": 3}, None, "number 3 of 3"),
        ({}, {}, {"r0": {"z": 1.0}}, "'z' first, which is not a candidate"),
    ],
)
def test_rejects_invalid_log(
    changes: dict[str, Any], choice: dict[str, Any], target: dict[str, dict[str, float]] | None, words: str
) -> None:
    frame = requests(logged_request(0, [0.1] * 3, CHOICE | choice) | changes)

    with pytest.raises(FeedbackError, match=words):
        explored_requests([frame], joined([("r0", "a")]), target, {})


def test_unusable_requests_are_counted() -> None:
    rows = [logged_request(n, [0.1] * 3, CHOICE) for n in range(3)] + [logged_request(3, [0.1] * 3, None)]
    frame, counts = requests(*rows), dict[str, int]()
    found = explored_requests([frame, frame], joined([("r0", "a"), ("r1", "b")]), None, counts)

    assert len(found.users) == 1
    unused = {"requests_without_explore": 1, "requests_whose_first_was_not_shown": 2}
    assert counts == {**unused, "requests_not_in_the_target": 0}


def test_bundle_declares_the_pricing() -> None:
    row = logged_request(0, [0.1] * 3, CHOICE) | {"bids": [1.0] * 3, "pricing": ["cpa"] * 3}
    formulas: dict[str, Any] = {32 * "b": {"cpc": ("pctr",), "cpa": ("pctr", "logit_std")}}
    found = explored_requests([requests(row)], joined([("r0", "a")]), None, {}, formulas)

    assert found.rewards["rpm"].predicted.tolist() == pytest.approx([0.05])
    with pytest.raises(FeedbackError, match="do not price its candidates"):
        explored_requests([requests(row)], joined([("r0", "a")]), None, {})


def test_rejects_log_without_exploration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logged, shown, _ = explored(20)
    logged.drop("explore").write_parquet(tmp_path / "requests-1.parquet")
    shown.write_parquet(tmp_path / "events-1.parquet")

    assert run(tmp_path, "--settle-hours", 0, "--by", "policy") == 2
    assert "20 requests without explore" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (['{"request_id": "r", "item": "a"}'], "columns request_id, item_id"),
        (['{"request_id": "r", "item_id": "a", "probability": 0.4}'], "sum to 0.4"),
        (['{"request_id": "r", "item_id": "a", "probability": -1.0}'], "probability -1"),
        (['{"request_id": "r", "item_id": null}'], "item None"),
        (["not json"], "cannot be read"),
    ],
)
def test_rejects_invalid_policy_file(tmp_path: Path, lines: list[str], words: str) -> None:
    path = tmp_path / "target.jsonl"
    path.write_text("\n".join(lines) + "\n")

    with pytest.raises(FeedbackError, match=words):
        read_target(path)
