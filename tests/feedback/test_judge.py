"""A bundle that is the law of the clicks is promoted, and kept against another; bounds, segments and values."""

import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import native
from msd.contract.bundle import Bundle
from msd.feedback.arms import Estimate
from msd.feedback.files import JUDGE_COLUMNS, FeedbackError, read_requests
from msd.feedback.gate import Check, Gate, above_zero, at_most, checks_of, decided
from msd.feedback.impressions import Windows, join
from msd.feedback.judge import Verdict, _score, judge
from msd.feedback.proposals import clicks_of
from msd.feedback.scored_bundle import ScoredBundle
from tests.bundles.factory import AT, USERS, build_bundle
from tests.bundles.ranker_graph import Recipe
from tests.feedback.made import events, requests

GATE = Gate(latency=1_000)
NEVER = Estimate(math.inf, (math.inf, math.inf))
FIRST = {"policy": "thompson", "share": 1.0, "seed": "s", "explored": True, "first": 0, "propensity": 0.2}


class Log:
    """Requests and events whose clicks follow one bundle's scores; the first of five random candidates is shown. A
    third of the requests is anonymous."""

    def __init__(self, folder: Path, law: Bundle, count: int = 900, at: float = AT + 60, **asked: Any) -> None:  # noqa: ANN401
        rng, scorer, self.file = np.random.default_rng(0), ScoredBundle(law.folder), folder / "requests-1.parquet"
        logged, shown = [], []
        for number in range(count):
            ids = [f"i{place}" for place in rng.choice(300, 5, replace=False)]
            user = f"u{number % USERS}" if number % 3 else None
            body = json.dumps({"user_id": user, "candidates": {"id": ids}, **asked}).encode()
            row = {
                "request_id": f"r{number}",
                "user_id": user or "",
                "item_ids": ids,
                "at": at + number,
                "request": body,
            }
            scores = scorer.score(row) or {"pctr": np.full(5, 0.5), "pcvr": np.full(5, 0.5)}
            row["segments"] = ["known" if user else "anonymous", f"placement={number % 2}"]
            own = {"bids": None, "pricing": None, "scores": [scores["pctr"].tolist()], "heads": ["pctr"]}
            logged.append(row | own | {"explore": FIRST})
            shown.append(("impression", ids[0], at + number, f"r{number}"))
            if rng.random() < scores["pctr"][0]:
                shown.append(("click", ids[0], at + number + 1, f"r{number}"))
                if rng.random() < scores["pcvr"][0]:
                    shown.append(("conversion", ids[0], at + number + 2, f"r{number}"))
        requests(*logged).write_parquet(self.file)
        self.events = events(*shown)

    def judged(self, old: Bundle, new: Bundle) -> Verdict:
        """The verdict on all of it."""
        shown = join(read_requests([self.file]), [self.events], Windows()).frame
        pair = (ScoredBundle(old.folder), ScoredBundle(new.folder))
        return judge(*pair, read_requests([self.file], JUDGE_COLUMNS), shown, GATE, resamples=200)


@pytest.fixture(scope="module")
def log(other_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Log:
    """Clicks by the other bundle's law."""
    return Log(tmp_path_factory.mktemp("log"), other_bundle)


@pytest.fixture(scope="module")
def better(log: Log, bundle: Bundle, other_bundle: Bundle) -> Verdict:
    """That on the law, against another bundle; nobody changes it."""
    return log.judged(bundle, other_bundle)


@pytest.fixture(scope="module")
def worse(log: Log, bundle: Bundle, other_bundle: Bundle) -> Verdict:
    """That on another bundle, against the law; nobody changes it."""
    return log.judged(other_bundle, bundle)


def judged_again(verdict: Verdict, gate: Gate) -> Verdict:
    """That of another gate on the same figures, which do not depend on it."""
    return Verdict(verdict.figures, checks_of(gate, verdict.figures))


def test_the_law_is_promoted_and_kept(log: Log, better: Verdict, worse: Verdict, other_bundle: Bundle) -> None:
    assert better.decision != "keep", better.checks
    assert better.figures["differences"]["auc"]["ci95"][0] > 0
    assert worse.decision == "keep"
    same = log.judged(other_bundle, other_bundle)
    assert same.decision == "keep"
    assert same.checks[0][:4] == ("sure gain of logloss", 0.0, "needs more than 0", "unknown")
    segments = better.figures["segments"]
    due = {"anonymous": 300, "known": 600, "placement=0": 450, "placement=1": 450}
    assert {name: segment["impressions"] for name, segment in segments.items()} == due
    assert segments["anonymous"]["predicted_over_observed"]["new"] == pytest.approx(1, abs=0.2)
    assert better.figures["models"]["new"]["pcvr"]["predicted_over_observed"] == pytest.approx(1, abs=0.2)


def test_impressions_are_judged_where_they_were_shown(bundle: Bundle) -> None:
    """The law of the clicks is the bundle's own score at each impression's place, a missing one where it is unknown."""
    scorer, ids = ScoredBundle(bundle.folder), ["i1", "i2", "i3", "i4"]
    body = json.dumps({"user_id": "u1", "candidates": {"id": ids}}).encode()
    row = {"request_id": "r", "item_ids": ids, "request": body, "at": AT + 60}
    served = requests({**row, "scores": [[0.5] * 4], "bids": None})
    rows = [("impression", one, AT + 61, "r", one, place) for one, place in zip(ids, (1, 3, None, 2), strict=True)]
    later = join([served], [events(*rows, ("click", "i1", AT + 70, "r"))], Windows()).frame.sort("item_id")
    file = [served.with_columns(pl.lit(None).alias(name) for name in JUDGE_COLUMNS if name not in served.columns)]
    scored = _score((scorer, scorer), [frame.with_columns(request=pl.lit(body)) for frame in file], later)
    found = scorer.score_shown(row, None, {1, 2, 3, None})

    assert found is not None
    due = [found.shown[place]["pctr"][number] for number, place in enumerate((1, 3, None, 2))]
    assert scored.pctr[0].tolist() == scored.pctr[1].tolist() == pytest.approx(due)
    assert len({float(found.shown[place]["pctr"][0]) for place in (1, 2, 3, None)}) == 4
    assert found.shown[1]["pctr"].tolist() == found.served["pctr"].tolist()


def test_scores_come_from_the_core(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {
        "request_id": "r",
        "item_ids": ["i1"],
        "request": b'{"user_id": null, "candidates": {"id": ["i1"]}}',
        "at": AT,
    }
    assert ScoredBundle(bundle.folder).score(row)
    monkeypatch.delattr(native.core, "Frame")
    with pytest.raises(AttributeError, match="Frame"):
        ScoredBundle(bundle.folder).score(row)


def test_prices_that_a_bundle_does_not_have_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    candidates = {"id": ["i1"], "bid": [1.0], "pricing": ["cpa"]}
    body = json.dumps({"user_id": None, "candidates": candidates}).encode()
    row = {"request_id": "r", "item_ids": ["i1"], "request": body, "at": AT}
    clicks = ScoredBundle(build_bundle(tmp_path / "clicks", Recipe(heads=("pctr",))).folder)

    assert ScoredBundle(bundle.folder).score(row)
    assert clicks.score(row) is None
    assert clicks.refused == 1


def test_rejects_rows_and_candidates_of_another_form(bundle: Bundle) -> None:
    scorer = ScoredBundle(bundle.folder)
    rows = {"bundle_id": bundle.bundle_id, "user_row": b"x", "item_rows": b"", "history": [], "impressions": []}
    body = b'{"user_id": null, "candidates": {"id": ["i2"]}}'
    row = {"request_id": "r", "item_ids": ["i1"], "request": body, "at": AT, **rows}

    with pytest.raises(FeedbackError, match="user_row does not hold 1 rows"):
        scorer.state_of(row)
    with pytest.raises(FeedbackError, match="item_ids are not its candidates"):
        scorer.score(row)


def test_value_of_the_difference_is_that_of_the_law(better: Verdict) -> None:
    value = better.document()["value"]

    assert value["requests"] == 900
    for estimator in ("ips", "dr"):
        old, new, gap = (value[name][estimator] for name in ("old", "new", "difference"))
        assert gap["value"] == pytest.approx(new["value"] - old["value"])
    assert gap["ci95"][0] > 0, "the law puts the best first"


def test_gain_is_also_that_of_first_impressions_which_either_bundle_chooses(better: Verdict, worse: Verdict) -> None:
    gate = GATE.model_copy(update={"clicks": 10})
    better, worse = judged_again(better, gate), judged_again(worse, gate)

    assert better.decision != "keep", better.checks
    assert 900 / 5 < better.figures["comparable"]["impressions"] < 2 * 900 / 5, "each chooses one of five"
    assert worse.checks[1].name == "gain of logloss on explored requests"
    assert worse.checks[1].outcome == "fails"


def test_broken_bounds_keep_the_old_bundle(better: Verdict) -> None:
    few, slow = (judged_again(deepcopy(better), gate) for gate in (Gate(clicks=10_000), Gate(latency=1e-9)))

    assert [check.name for check in few.checks] == ["clicks"]
    assert [check.name for check in slow.checks if check.outcome == "fails"] == ["latency, new ÷ old"]
    assert few.decision == slow.decision == "keep"
    slow.figures["segments"]["known"] |= {"factor": NEVER, "factor_over_old": NEVER}  # no click is expected
    failed = [str(check) for check in checks_of(GATE, slow.figures) if check.outcome == "fails"]
    assert failed[0].startswith("calibration of known requests, as a factor: +inf")
    for errors, decision in ((1.5, "keep"), (2.5, "unknown"), (3.5, "promote")):
        slow.figures["differences"]["logloss"] |= {"difference": -errors, "error": 1.0}
        gain = checks_of(GATE, slow.figures)[0]
        assert (decided([gain]), gain.seems) == (decision, decision == "promote"), "a likely gain is for the rollout"


def estimate(low: float, value: float, high: float) -> Estimate:
    return Estimate(value, (low, high))


@pytest.mark.parametrize(
    ("check", "outcome"),
    [
        (at_most("a", estimate(-1, 0, 1), 1.0), "holds"),
        (at_most("a", estimate(-1, 0, 1), 0.5), "unknown"),
        (at_most("a", estimate(0.6, 0.8, 1), 0.5), "fails"),
        (at_most("a", estimate(math.nan, 0.0, math.nan), 0.5), "unknown"),
        (above_zero("a", estimate(0.1, 1, 2)), "holds"),
        (above_zero("a", estimate(-0.1, 1, 2)), "unknown"),
        (above_zero("a", estimate(-2, -1, -0.1)), "fails"),
    ],
)
def test_check_is_unknown_while_its_bound_is_in_the_interval(check: Check, outcome: str) -> None:
    assert check.outcome == outcome


def test_one_failure_keeps_and_one_unknown_leaves_it_to_the_rollout() -> None:
    held, unknown, failed = (at_most("a", estimate(0, 1, 2), most) for most in (2.0, 1.0, -1.0))

    assert [decided(one) for one in ([held], [held, unknown], [unknown, failed])] == ["promote", "unknown", "keep"]
    assert decided([held, unknown._replace(is_needed=True)]) == "keep"


def test_value_is_unknown_without_support(better: Verdict) -> None:
    """Of 900 requests each of five ads is first by chance; thrice as much support is asked for as there is."""
    thin, enough = (judged_again(better, GATE.model_copy(update={"support": n})) for n in (600, 60))
    of_thin, of_enough = (next(one for one in v.checks if one.name == "share of value lost") for v in (thin, enough))

    assert thin.decision == "unknown"
    assert (of_thin.outcome, of_enough.outcome) == ("unknown", "holds")
    assert "needs 600" in of_thin.bound


def test_reward_model_is_neither_bundles() -> None:
    """Both bundles predict a fifth of the clicks: the cross-fitted model predicts all of them."""
    rng, count = np.random.default_rng(0), 4_000
    chance = rng.uniform(0.05, 0.5, count)
    clicked = (rng.random(count) < chance).astype(np.float64)
    logits = np.log(chance / 5 / (1 - chance / 5))
    ids = np.char.add("i", rng.integers(30, size=(count, 3)).astype(str))
    predicted = clicks_of(np.broadcast_to(logits[:, None, None], (count, 2, 3)), ids, clicked, np.arange(count))

    assert predicted[:, 0].mean() == pytest.approx(clicked.mean(), rel=0.02)
    assert np.corrcoef(predicted[:, 0], chance)[0, 1] > 0.95


def test_bundles_are_judged_on_later_and_accepted_requests_alone(
    bundle: Bundle, other_bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(FeedbackError, match="none of 9 impressions is later than the data of both bundles"):
        Log(tmp_path, bundle, 9, at=1e6).judged(bundle, other_bundle)
    with pytest.raises(
        FeedbackError, match=r"not one request is accepted by both bundles; refused: {'old': 9, 'new': 9}"
    ):
        Log(tmp_path, bundle, 9, context={"unknown": 1}).judged(bundle, other_bundle)
