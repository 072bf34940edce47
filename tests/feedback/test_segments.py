"""Shifts of a correction by segment: those that clicks show, none where they show none."""

import numpy as np
import polars as pl
import pytest

from msd.contract.correction import LearnedCorrection
from msd.feedback.recalibrate import RATE_PER_HOUR, Impressions, learn, learn_held_back
from msd.feedback.segments import Divisions, divided

DAY = 86_400.0
NAMES = [
    (user, f"device={device}", f"slot {slot}") for user in ("known", "anonymous") for device in "abc" for slot in (1, 2)
]
LAW = {"anonymous": -0.5, "device=b": 0.4, "device=c": -0.1, "slot 2": -0.3}


def drifted(law: dict[str, float], count: int = 40_000, days: float = 7, seed: int = 0) -> Impressions:
    """Impressions of a model that was right, before segments moved."""
    rng = np.random.default_rng(seed)
    divisions, logits = Divisions(NAMES, rng.integers(len(NAMES), size=count)), rng.normal(-2.0, 1.0, count)
    labels = (rng.random(count) < 1 / (1 + np.exp(-logits - divisions.moved(law)))).astype(float)
    users = rng.integers(0, count // 5, count)
    return Impressions(logits, labels, users, np.linspace(0, days * DAY, count), divisions)


def placed(shown: Impressions) -> list[int]:
    assert shown.divisions is not None
    found: list[int] = shown.divisions.of.tolist()
    return found


def contrast(shifts: dict[str, float], one: str, other: str) -> float:
    return shifts.get(one, 0.0) - shifts.get(other, 0.0)


def test_segments_move_as_far_as_clicks_show() -> None:
    shown = drifted(LAW)
    learned = learn(shown, None, 14 * DAY).learned
    assert learned is not None

    for one, other in (
        ("anonymous", "known"),
        ("device=b", "device=a"),
        ("device=c", "device=a"),
        ("slot 2", "slot 1"),
    ):
        due = contrast(LAW, one, other)
        assert contrast(learned.segments, one, other) == pytest.approx(due, abs=0.08)
    for names in NAMES:
        rows = np.array([NAMES[place] == names for place in placed(shown)])
        chances = (1 / (1 + np.exp(-shown.logits[rows]))).astype(np.float32)
        assert 0.85 < learned.within(names)(chances).sum() / shown.labels[rows].sum() < 1.15
    again = learn(shown, learned, 14 * DAY).learned
    assert again is not None
    assert again.segments == pytest.approx(learned.segments, abs=0.01)


def test_segments_without_evidence_get_nothing() -> None:
    """Of 36 fields."""
    found = [learn(drifted({}, 8_000, seed=seed), None, 14 * DAY).learned for seed in range(12)]
    shifts = [abs(shift) for learned in found if learned for shift in learned.segments.values()]
    assert len(shifts) <= 3, shifts


def test_shifts_are_slow_and_stay_where_nothing_is_seen() -> None:
    shown = drifted(LAW, days=0.5 / 24)
    held = LearnedCorrection(segments={"device=x": 0.3, "device=b": -0.2}, at=0, impressions=0, clicks=0)
    learned = learn(shown, held, 14 * DAY).learned
    assert learned is not None

    assert learned.segments["device=x"] == 0.3
    for name, shift in learned.segments.items():
        assert abs(shift - held.segments.get(name, 0.0)) <= RATE_PER_HOUR / 2 + 1e-9


def test_combinations_of_segments_are_numbered() -> None:
    rows = pl.DataFrame(
        {"segments": [["known", "a=="], ["known", "a=="], ["known"], ["anonymous"]], "slot": [1, 1, None, 2]}
    )
    places: dict[tuple[str, ...], int] = {("known",): 0}
    found = divided(rows, "slot", places)
    names = {number: combination for combination, number in places.items()}
    due = [("known", "a==", "slot 1"), ("known", "a==", "slot 1"), ("known",), ("anonymous", "slot 2")]
    assert [names[number] for number in found] == due


def test_held_back_impressions_say_how_a_new_bundle_starts() -> None:
    """Not sorted; some were shown at a position that nobody knows."""
    shown = drifted(LAW, 20_000)
    names = [NAMES[place] for place in placed(shown)]
    order = np.random.default_rng(0).permutation(len(names))
    rows = pl.DataFrame(
        {
            "at": shown.at,
            "user_id": [f"u{user}" for user in shown.users],
            "label": shown.labels.astype(np.int8),
            "segments": [list(one[:2]) for one in names],
            "position": [int(one[2][-1]) if place % 10 else None for place, one in enumerate(names)],
        }
    )[order]
    learned = learn_held_back(rows, (1 / (1 + np.exp(-shown.logits)))[order])

    assert learned is not None
    assert contrast(learned.segments, "slot 2", "slot 1") == pytest.approx(LAW["slot 2"], abs=0.1)
    assert contrast(learned.segments, "anonymous", "known") == pytest.approx(LAW["anonymous"], abs=0.1)
    assert learn_held_back(rows[:300], np.full(300, 0.1)) is None, "few clicks"
