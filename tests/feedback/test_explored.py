"""`msd join --by policy` over real files: what it estimates, counts and refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from msd.feedback.files import FeedbackError
from msd.feedback.policy_value import explored_requests, read_target
from service.scoring.exploration import Exploration, choose_first, competing
from tests.feedback.made import EVENTS
from tests.feedback.test_join_command import run

CHOICE = {"policy": "thompson", "share": 0.5, "seed": "r", "explored": True, "first": 0, "propensity": 0.5}


def explored(requests: int, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame, float]:
    """A log of requests that explore, its events, and what the best by score would have been clicked."""
    rng = np.random.default_rng(seed)
    logged: list[dict[str, Any]] = []
    events, value = [], 0.0
    for n in range(requests):
        pctr = rng.uniform(0.05, 0.4, 3).astype(np.float32)
        true = 1 / (1 + np.exp(-(np.log(pctr / (1 - pctr)) + rng.normal(0, 0.5, 3))))
        ids, none = ["a", "b", "c"], np.full(3, np.nan)
        candidates = competing(ids, pctr, np.full(3, 0.5, np.float32), none, np.ones(3, bool))
        choice = choose_first(Exploration("thompson", 0.5, f"r{n}"), candidates, int(pctr.argmax()))
        value += true[pctr.argmax()] / requests
        logged.append(logged_request(n, pctr, choice.as_record()))
        events.append(("impression", ids[choice.first], n))
        if rng.random() < true[choice.first]:
            events.append(("click", ids[choice.first], n))
    return pl.DataFrame(logged, schema_overrides=TYPES), told(events), value


TYPES: dict[str, Any] = {"bids": pl.List(pl.Float64), "scores": pl.List(pl.List(pl.Float32))}


def logged_request(n: int, pctr: Any, explore: dict[str, Any] | None) -> dict[str, Any]:  # noqa: ANN401
    return {
        "request_id": f"r{n}",
        "received_at": float(n),
        "at": float(n),
        "arm": "champion",
        "arm_share": 1.0,
        "user_id": f"u{n % 400}",
        "item_ids": ["a", "b", "c"],
        "bids": None,
        "heads": ["pctr", "logit_std"],
        "scores": [list(map(float, pctr)), [0.5] * 3],
        "pricing": None,
        "explore": explore,
    }


def told(rows: list[tuple[str, str, int]]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "event_id": f"{kind}{n}{item}",
                "type": kind,
                "user_id": f"u{n % 400}",
                "item_id": item,
                "at": float(n) + (kind == "click"),
                "request_id": f"r{n}",
            }
            for kind, item, n in rows
        ],
        schema=EVENTS,
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A log's folder, and the value of its greedy policy."""
    folder = tmp_path_factory.mktemp("explored")
    requests, events, value = explored(3_000)
    requests.write_parquet(folder / "requests-1.parquet")
    events.write_parquet(folder / "events-1.parquet")
    return folder, value


def test_the_greedy_policys_value_is_estimated(
    log: tuple[Path, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, value = log
    assert run(folder, "--by", "policy", "--json", tmp_path / "value.json") == 0
    found = json.loads((tmp_path / "value.json").read_text("utf-8"))

    for estimator in ("ips", "snips", "dr"):
        low, high = found["values"]["ctr"][estimator]["ci95"]
        assert low < value < high, estimator
    assert found["support"]["weight"]["ci95"][0] < 1 < found["support"]["weight"]["ci95"][1]
    assert found["told"]["used_requests"] == 3_000
    out = capsys.readouterr().out
    assert "SNIPS" in out
    assert "as it should be" in " ".join(out.split())


def test_a_policy_from_a_file_is_estimated(log: tuple[Path, float], tmp_path: Path) -> None:
    target = tmp_path / "target.jsonl"
    target.write_text("".join(json.dumps({"request_id": f"r{n}", "item_id": "b"}) + "\n" for n in range(2_000)))
    assert run(log[0], "--by", "policy", "--target", target, "--json", tmp_path / "value.json") == 0
    found = json.loads((tmp_path / "value.json").read_text("utf-8"))

    assert found["told"]["requests_not_in_the_target"] == 1_000
    assert found["told"]["used_requests"] == 2_000
    # "b" is as good as any: its click rate is the mean of all.
    assert 0.18 < found["values"]["ctr"]["dr"]["value"] < 0.3


def test_what_the_log_cannot_estimate_is_null(tmp_path: Path) -> None:
    """The policy never chose what was shown, and there is one user to resample."""
    requests, events, _ = explored(1)
    shown = requests["explore"].to_list()[0]["first"]
    other = requests["item_ids"].to_list()[0][shown - 1]
    requests.write_parquet(tmp_path / "requests-1.parquet")
    events.write_parquet(tmp_path / "events-1.parquet")
    target = tmp_path / "target.jsonl"
    target.write_text(json.dumps({"request_id": "r0", "item_id": other}))
    assert run(tmp_path, "--by", "policy", "--target", target, "--json", tmp_path / "value.json") == 0

    found = json.loads((tmp_path / "value.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert found["values"]["ctr"]["snips"]["value"] is None
    assert found["values"]["ctr"]["ips"]["value"] == 0
    assert found["support"]["effective"] == 0


@pytest.mark.parametrize("propensity", [0.0, -0.1, float("nan"), float("inf"), 1.5, None])
def test_a_propensity_that_is_none_is_refused(propensity: float | None) -> None:
    frame = pl.DataFrame([logged_request(0, [0.1] * 3, CHOICE | {"propensity": propensity})], schema_overrides=TYPES)
    impressions = joined([("r0", "a")])

    with pytest.raises(FeedbackError, match="request r0: propensity"):
        explored_requests([frame], impressions, None, {})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"explore": "thompson"}, "column explore"),
        ({"pricing": ["cpa"] * 3, "bids": [1.0] * 3}, "do not price"),
        ({"heads": ["pcvr", "logit_std"]}, "do not price"),
    ],
)
def test_a_log_of_another_form_is_refused(changes: dict[str, Any], words: str) -> None:
    frame = pl.DataFrame([logged_request(0, [0.1] * 3, CHOICE) | changes], schema_overrides=TYPES)

    with pytest.raises(FeedbackError, match=words):
        explored_requests([frame], joined([("r0", "a")]), None, {})


def test_a_first_candidate_that_is_none_is_refused() -> None:
    frame = pl.DataFrame([logged_request(0, [0.1] * 3, CHOICE | {"first": 3})], schema_overrides=TYPES)

    with pytest.raises(FeedbackError, match="number 3 of 3"):
        explored_requests([frame], joined([("r0", "a")]), None, {})


def joined(shown: list[tuple[str, str]]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"request_id": request, "item_id": item, "label": 1, "pricing": "cpc", "bid": None}
            for request, item in shown
        ],
        schema_overrides={"bid": pl.Float64},
    )


def test_what_cannot_be_used_is_counted() -> None:
    rows = [logged_request(n, [0.1] * 3, CHOICE) for n in range(3)] + [logged_request(3, [0.1] * 3, None)]
    frame, counts = pl.DataFrame(rows, schema_overrides=TYPES), dict[str, int]()
    found = explored_requests([frame, frame], joined([("r0", "a"), ("r1", "b")]), None, counts)

    assert len(found.users) == 1
    assert counts == {
        "requests_without_explore": 1,
        "requests_whose_first_was_not_shown": 2,
        "requests_not_in_the_target": 0,
    }


def test_a_log_without_exploration_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requests, events, _ = explored(20)
    requests.drop("explore").write_parquet(tmp_path / "requests-1.parquet")
    events.write_parquet(tmp_path / "events-1.parquet")

    assert run(tmp_path, "--by", "policy") == 2
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
def test_a_policy_that_is_none_is_refused(tmp_path: Path, lines: list[str], words: str) -> None:
    path = tmp_path / "target.jsonl"
    path.write_text("\n".join(lines) + "\n")

    with pytest.raises(FeedbackError, match=words):
        read_target(path)


def test_a_policy_of_other_candidates_is_refused() -> None:
    frame = pl.DataFrame([logged_request(0, [0.1] * 3, CHOICE)], schema_overrides=TYPES)

    with pytest.raises(FeedbackError, match="'z' first, which is not a candidate"):
        explored_requests([frame], joined([("r0", "a")]), {"r0": {"z": 1.0}}, {})


def test_a_target_without_a_policy_is_refused(log: tuple[Path, float], tmp_path: Path) -> None:
    assert run(log[0], "--by", "arm", "--target", tmp_path / "x.jsonl") == 2
