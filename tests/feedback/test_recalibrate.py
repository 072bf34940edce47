"""A known drift is found; without one, or with few or one-sided events, nothing moves; nothing moves far or fast."""

import json
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.contract.correction import MAX_LOG_SLOPE, MAX_SHIFT, LearnedCorrection, read_corrections, write_corrections
from msd.feedback.files import FeedbackError
from msd.feedback.recalibrate import RATE_PER_HOUR, Impressions, _where_scored, learn
from tests.feedback.made import traffic
from tests.service.live import run_msd

DAY = 86_400.0
NONE = LearnedCorrection(at=0, impressions=0, clicks=0)


def drifted(seed: int, shift: float, slope: float, count: int = 20_000, days: float = 7) -> Impressions:
    """Impressions of a model that was right, before log-odds moved around −3."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-3, 1, count)
    chance = 1 / (1 + np.exp(-(-3 + shift + slope * (logits + 3))))
    labels = (rng.random(count) < chance).astype(float)
    return Impressions(logits, labels, rng.integers(0, count // 5, count), np.linspace(0, days * DAY, count))


def at(learned: LearnedCorrection | None, logit: float) -> float:
    """Where a correction moves a score."""
    line = learned or NONE
    return line.centre + line.shift + line.slope * (logit - line.centre)


@pytest.mark.parametrize(("shift", "slope"), [(0.5, 1.0), (-0.5, 1.0), (0.0, 0.75), (0.3, 1.3)])
def test_known_drift_is_learned(shift: float, slope: float) -> None:
    found = learn(drifted(0, shift, slope), None, 14 * DAY).learned

    assert found is not None
    assert at(found, -3) == pytest.approx(-3 + shift, abs=0.1)
    assert found.slope == pytest.approx(slope, abs=0.12)
    assert learn(drifted(1, shift, slope), found, 14 * DAY).learned is not None
    again = learn(drifted(0, shift, slope), found, 14 * DAY)
    assert (again.learned, again.why) == (found, "kept: clicks agree with it")


def test_latest_impressions_weigh_most() -> None:
    before, after = drifted(0, 0.5, 1), drifted(1, -0.5, 1)
    pairs = zip(before[:4], after._replace(at=after.at + 7 * DAY)[:4], strict=True)
    both = Impressions._make([*(np.concatenate(pair) for pair in pairs), None])

    slow, fast = (learn(both, None, days * DAY).learned for days in (100, 1))
    assert at(slow, -3) == pytest.approx(-3, abs=0.15)
    assert at(fast, -3) < -3.3


def test_no_large_correction_without_drift() -> None:
    outcomes = [learn(drifted(seed, 0, 1, 5_000), None, 14 * DAY) for seed in range(20)]

    # Two parameters, a gain of one: chance alone passes it in three of five.
    assert sum(outcome.learned is None for outcome in outcomes) >= 4
    assert max(abs(at(outcome.learned, -3) + 3) for outcome in outcomes) < 0.25


def test_few_clicks_change_nothing() -> None:
    few = drifted(0, 3, 1, 300)._replace(labels=np.r_[np.ones(99), np.zeros(201)])
    known = NONE.model_copy(update={"shift": 0.2})

    assert "too few" in learn(few, None, DAY).why
    assert learn(few, None, DAY).learned is None
    assert learn(few, known, DAY).learned == known


def test_one_users_clicks_weigh_little() -> None:
    honest = drifted(0, 0, 1)
    labels, users = honest.labels.copy(), honest.users.copy()
    labels[::20], users[::20] = 1, 0
    shared = learn(honest._replace(labels=labels), None, 14 * DAY).learned
    hoarded = learn(honest._replace(labels=labels, users=users), None, 14 * DAY).learned

    assert at(hoarded, -3) + 3 < 0.5 * (at(shared, -3) + 3)


def test_missing_clicks_are_a_broken_feed() -> None:
    shown = drifted(0, 0, 1)
    labels = shown.labels.copy()
    labels[-1_000:] = 0
    known = NONE.model_copy(update={"shift": 0.2})
    outcome = learn(shown._replace(labels=labels), known, 14 * DAY)

    assert (outcome.learned, outcome.is_broken) == (known, True)
    assert "are clicks still sent?" in outcome.why


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(-12, 12), st.floats(0.01, 3))
def test_correction_is_bounded_and_slow(seed: int, rate: float, mean: float, spread: float) -> None:
    rng = np.random.default_rng(seed)
    count = 400
    shown = Impressions(
        rng.normal(mean, spread, count),
        (rng.random(count) < rate).astype(float),
        rng.integers(0, 50, count),
        np.sort(rng.uniform(0, 3_600, count)),
    )
    outcome = learn(shown, None, DAY)

    if outcome.learned is not None:
        assert abs(outcome.learned.shift) <= RATE_PER_HOUR + 1e-9
        assert abs(np.log(outcome.learned.slope)) <= RATE_PER_HOUR + 1e-9
    later = learn(shown._replace(at=shown.at + 100 * DAY), outcome.learned, DAY)
    if later.learned is not None:
        assert abs(later.learned.shift) <= MAX_SHIFT
        assert abs(np.log(later.learned.slope)) <= MAX_LOG_SLOPE


def test_drift_is_followed_within_the_rate_limit() -> None:
    shown = drifted(0, 1, 1, days=1 / 24)
    first = learn(shown, None, 14 * DAY)
    second = learn(shown._replace(at=shown.at + 1_800), first.learned, 14 * DAY)

    assert first.why == second.why == "moved as far as the rate of change allows"
    assert at(first.learned, -3) == pytest.approx(-3 + RATE_PER_HOUR, abs=0.03)
    assert at(second.learned, -3) == pytest.approx(-3 + 1.5 * RATE_PER_HOUR, abs=0.03)


def log_of(folder: Path, seed: int, lift: float, correction: list[float] | None = None) -> Path:
    """A service's log of a day whose click rate is so much above the one predicted. Without a correction it is of an
    earlier release, which knew none."""
    requests, events = traffic(seed, 3_000, lift, share=1.0)
    folder.mkdir()
    served = [] if correction is None else [pl.lit(correction, pl.List(pl.Float64)).alias("correction")]
    requests.with_columns(pl.lit("b1").alias("bundle_id"), *served).write_parquet(folder / "requests-1.parquet")
    events.write_parquet(folder / "events-1.parquet")
    return folder


def recalibrate(log: Path, out: Path, *options: str, code: int = 0) -> str:
    """What `msd recalibrate` prints."""
    ended = run_msd("recalibrate", str(log), "--out", str(out), *options)
    assert ended.returncode == code, ended.stderr
    return ended.stdout + ended.stderr


def test_recalibrate_writes_corrections(tmp_path: Path) -> None:
    log, out = log_of(tmp_path / "log", 0, 0.5), tmp_path / "corrections.json"
    write_corrections(out, {"old": NONE, "rests": NONE.model_copy(update={"at": DAY})})
    printed = recalibrate(log, out, "--settle-hours", "1")
    assert "moved" in printed
    assert "0.0% of clicks come later" in printed or "not known yet" in printed
    assert "Served ÷ clicks: known 0." in printed

    found = read_corrections(out)
    assert found.keys() == {"b1", "old", "rests"}
    # Those who click much are shown much, so that the rate of impressions is above that of users.
    rate = found["b1"].clicks / found["b1"].impressions
    assert rate > 0.075
    assert found["b1"](np.array([0.05], np.float32))[0] == pytest.approx(rate, abs=0.004)
    # What has not settled does not count.
    assert found["b1"].at <= DAY - 3_600

    # Whatever clock events were told by.
    events, out = pl.read_parquet(log / "events-1.parquet"), tmp_path / "other.json"
    events.with_columns(pl.col("at") + 1e9).write_parquet(log / "events-1.parquet")
    recalibrate(log, out)
    assert read_corrections(out)["b1"].values == pytest.approx(found["b1"].values)


def test_service_whose_clock_is_ahead_changes_no_correction(tmp_path: Path) -> None:
    log, out, later = log_of(tmp_path / "log", 0, 0.5), tmp_path / "corrections.json", time.time() + 30 * DAY
    recalibrate(log, out)
    found = read_corrections(out)["b1"]
    requests, events = (pl.read_parquet(log / f"{kind}-1.parquet") for kind in ("requests", "events"))
    first = requests.head(1).with_columns(request_id=pl.lit("ahead"), received_at=pl.lit(later))
    last = first.with_columns(request_id=pl.lit("last"), received_at=pl.lit(later + DAY))
    shown = events.head(1).with_columns(request_id=pl.lit("ahead"), event_id=pl.lit("ahead"))
    pl.concat([requests, first, last]).write_parquet(log / "requests-1.parquet")
    pl.concat([events, shown]).write_parquet(log / "events-1.parquet")
    out.unlink()
    recalibrate(log, out)

    again = read_corrections(out)["b1"]
    assert again.at <= DAY
    assert again.values == pytest.approx(found.values, abs=0.05)


def test_served_correction_is_undone(tmp_path: Path) -> None:
    """The model said .05 of all, and was served as more: what is learned is from .05 to what was clicked."""
    served = NONE.model_copy(update={"centre": -2.0, "shift": 0.5})
    log, out = log_of(tmp_path / "log", 1, 0.0, served.values), tmp_path / "corrections.json"
    requests = pl.read_parquet(log / "requests-1.parquet")
    scores = served(np.full(1, 0.05, np.float32)).tolist()
    requests.with_columns(
        scores=pl.Series([[scores]], dtype=pl.List(pl.List(pl.Float32))).new_from_index(0, requests.height)
    ).write_parquet(log / "requests-1.parquet")
    write_corrections(out, {"b1": served})
    recalibrate(log, out)
    found = read_corrections(out)["b1"]
    assert found(np.full(1, 0.05, np.float32))[0] == pytest.approx(found.clicks / found.impressions, abs=0.004)


def test_conversions_are_corrected_apart(tmp_path: Path) -> None:
    """The model said .3 of all clicks, and a fifth converted; what has not settled does not count."""
    log, out = log_of(tmp_path / "log", 2, 0.0), tmp_path / "corrections.json"
    requests, events = (pl.read_parquet(log / f"{kind}-1.parquet") for kind in ("requests", "events"))
    pair = pl.Series([[[0.05], [0.3]]], dtype=pl.List(pl.List(pl.Float32))).new_from_index(0, requests.height)
    heads = pl.lit(["pctr", "pcvr"]).alias("heads")
    requests.with_columns(pair.alias("scores"), heads).write_parquet(log / "requests-1.parquet")
    clicks = events.filter((pl.col("type") == "click") & (pl.col("at") < DAY - 7_200))
    sold = clicks.gather_every(5).with_columns(type=pl.lit("conversion"), at=pl.col("at") + 60)
    pl.concat([events, sold]).write_parquet(log / "events-1.parquet")
    recalibrate(log, out, "--conversion-settle-hours", "2")

    found = read_corrections(out)["b1"]
    assert found.conversions is not None
    assert found.conversions.clicks == pytest.approx(sold.height, abs=2)
    assert found.conversions(np.array([0.3], np.float32))[0] == pytest.approx(0.2, abs=0.02)
    assert found(np.array([0.05], np.float32))[0] == pytest.approx(found.clicks / found.impressions, abs=0.004)


def test_conversions_are_waited_for_until_most_have_come(tmp_path: Path) -> None:
    """The model is right: .3 of all clicks convert, six hours later on average, many after the log's end."""
    log, out = log_of(tmp_path / "log", 2, 0.0), tmp_path / "corrections.json"
    requests, events = (pl.read_parquet(log / f"{kind}-1.parquet") for kind in ("requests", "events"))
    pair = pl.Series([[[0.05], [0.3]]], dtype=pl.List(pl.List(pl.Float32))).new_from_index(0, requests.height)
    heads = pl.lit(["pctr", "pcvr"]).alias("heads")
    requests.with_columns(pair.alias("scores"), heads).write_parquet(log / "requests-1.parquet")
    rng, clicks = np.random.default_rng(0), events.filter(pl.col("type") == "click")
    due = clicks["at"].to_numpy() + rng.exponential(6 * 3_600, clicks.height)
    sold = clicks.with_columns(type=pl.lit("conversion"), at=pl.Series(due))
    seen = sold.filter(pl.Series((due < DAY) & (rng.random(clicks.height) < 0.3)))
    pl.concat([events, seen]).write_parquet(log / "events-1.parquet")
    recalibrate(log, out, "--conversion-settle-hours", "1")
    found = read_corrections(out).get("b1")
    corrected = found.conversions if found else None

    assert corrected is None or corrected(np.array([0.3], np.float32))[0] == pytest.approx(0.3, abs=0.03)


def test_rejects_logs_without_settled_impressions(tmp_path: Path) -> None:
    log, out = log_of(tmp_path / "log", 0, 0.0), tmp_path / "corrections.json"
    assert "is settled" in recalibrate(log, out, "--settle-hours", "25", code=2)
    assert not out.exists()

    out.write_text(json.dumps({"bundles": {"b1": {"shift": 5}}}))
    assert "bundles.b1.shift" in recalibrate(log, out, code=2)

    events = pl.read_parquet(log / "events-1.parquet")
    events.filter((pl.col("type") == "impression") | (pl.col("at") < DAY / 2)).write_parquet(log / "events-1.parquet")
    out.unlink()
    assert "are clicks still sent?" in recalibrate(log, out, code=1)
    assert read_corrections(out) == {}


@pytest.mark.parametrize(
    ("slots", "positions", "due"),
    [
        ([1, 1, 1], [1, 2, None], [0]),
        ([1, 1, 1], [None, None, None], [0, 1, 2]),
        ([None, None, None], [1, 2, None], [0, 1, 2]),
        ([2, 1, None], [2, 2, 9], [0, 2]),
    ],
)
def test_corrections_learn_from_impressions_at_the_place_of_their_scores(
    slots: list[int | None], positions: list[int | None], due: list[int]
) -> None:
    """Clicks of all places would pull the first place's scores down to the mean of the page."""
    types = pl.Schema({"slot": pl.Int32, "position": pl.Int32})
    shown = pl.DataFrame({"slot": slots, "position": positions}, schema=types).with_row_index()
    assert _where_scored(shown)["index"].to_list() == due
    with pytest.raises(FeedbackError, match="no impression was shown at the place"):
        _where_scored(shown.with_columns(slot=7, position=8).cast(types))
