"""A correction keeps the order of scores, is bounded and can be undone; what is no file of them is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from msd.contract.correction import (
    MAX_LOG_SLOPE,
    MAX_SHIFT,
    Correction,
    CorrectionError,
    LearnedCorrection,
    read_corrections,
    write_corrections,
)
from msd.contract.schema import Categorical, FeatureSchema, Sequence

cheap = settings(max_examples=40)
SLOPES = st.floats(np.exp(-MAX_LOG_SLOPE), np.exp(MAX_LOG_SLOPE))
CORRECTIONS = st.builds(Correction, centre=st.floats(-8, 8), shift=st.floats(-MAX_SHIFT, MAX_SHIFT), slope=SLOPES)
SCORES = arrays(np.float32, st.integers(1, 40), elements=st.floats(0, 1, width=32))
SEGMENTS = {"known": -0.5, "anonymous": 0.25, "device=ios": 0.9, "slot 2": -0.1, "slot 1": 0.3}
SOLD = LearnedCorrection(centre=-1, shift=-0.1, at=1e9, impressions=200, clicks=50)
LEARNED = LearnedCorrection(centre=-3, shift=0.1, slope=0.9, at=1e9, impressions=5_000, clicks=200, conversions=SOLD)


@cheap
@given(CORRECTIONS, SCORES)
def test_order_of_scores_stays(correction: Correction, scores: np.ndarray) -> None:
    corrected = correction(scores)[np.argsort(scores, kind="stable")]

    assert (np.diff(corrected) >= 0).all()
    assert ((corrected >= 0) & (corrected <= 1)).all()


@pytest.mark.parametrize(
    ("of", "shift"),
    [([], 0.1), (["known"], -0.4), (["anonymous", "device=ios"], 1.0), (["slot 2", "device=other"], 0.0)],
)
def test_shifts_of_segments_add_up_within_the_bound(of: list[str], shift: float) -> None:
    found = LEARNED.model_copy(update={"segments": SEGMENTS}).within(of)
    assert found.values == pytest.approx([-3, shift, 0.9, *SOLD.values])


def test_position_has_segments_as_a_place_alone() -> None:
    """A request that names its place has no value of the field itself."""
    fields = (
        Categorical(name="position", side="context", vocabulary=("1", "2"), serving_value="1"),
        Categorical(name="device", side="context", vocabulary=("ios",)),
        Sequence(name="history", length=1),
    )
    learned = LEARNED.model_copy(update={"segments": {"position=1": 0.5, "slot 1": 0.25, "device=ios": 0.125}})
    shifts = learned.lines_for(FeatureSchema(fields=fields))[0][-1]
    assert sorted({shift for *_, shift in shifts}) == [0.125, 0.25]


@cheap
@given(CORRECTIONS, SCORES)
def test_score_does_not_depend_on_others(correction: Correction, scores: np.ndarray) -> None:
    alone = [correction(scores[place : place + 1])[0] for place in range(len(scores))]

    assert correction(scores).tobytes() == np.array(alone, np.float32).tobytes()


@cheap
@given(CORRECTIONS, arrays(np.float32, 50, elements=st.floats(2**-13, 0.875, width=32)))
def test_correction_can_be_undone(correction: Correction, scores: np.ndarray) -> None:
    np.testing.assert_allclose(correction.undone(correction(scores)), scores, rtol=1e-3)


def test_correction_is_a_line_in_log_odds() -> None:
    scores = np.array([0.01, 0.05, 0.5], np.float32)
    logits = np.log(scores / (1 - scores))
    expected = 1 / (1 + np.exp(-(-3 + 0.2 + 0.8 * (logits + 3))))

    np.testing.assert_allclose(Correction(centre=-3, shift=0.2, slope=0.8)(scores), expected, rtol=1e-6)
    np.testing.assert_allclose(Correction()(scores), scores, rtol=1e-7)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_non_finite_scores_stay_so() -> None:
    assert not np.isfinite(Correction(shift=0.5)(np.array([np.nan, np.inf], np.float32))).any()


def test_file_round_trips(tmp_path: Path) -> None:
    """Without segments in the format of earlier releases."""
    path, divided = tmp_path / "corrections.json", LEARNED.model_copy(update={"segments": {"device=a=b": 0.1}})
    assert read_corrections(tmp_path / "none.json") == {}
    write_corrections(path, {"b": divided})
    assert (json.loads(path.read_bytes())["format_version"], read_corrections(path)) == (2, {"b": divided})
    write_corrections(path, {"b": LEARNED})
    assert json.loads(path.read_bytes())["format_version"] == 1
    assert "segments" not in path.read_text()

    assert read_corrections(path) == {"b": LEARNED}
    scores = {head: np.array([0.25, 0.5], np.float32) for head in ("pctr", "pcvr", "other")}
    found = Correction.of(LEARNED.values).correct(scores)
    for head, due in (("pctr", LEARNED(scores["pctr"])), ("pcvr", SOLD(scores["pcvr"])), ("other", scores["other"])):
        assert found[head].tobytes() == due.tobytes()
        np.testing.assert_allclose(LEARNED.undo(found)[head], scores[head], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"shift": 1.01}, "bundles.b.shift: should be less than or equal to 1"),
        ({"slope": 0}, "bundles.b.slope: should be greater than or equal to 0.5"),
        ({"slope": -1}, "bundles.b.slope"),
        ({"centre": float("nan")}, "bundles.b.centre"),
        ({"bias": 1}, "bundles.b.bias: is not known here"),
        ({"segments": {"known": 1.01}}, "bundles.b.segments.known: should be less than or equal to 1"),
        ({"segments": {"known": "much"}}, "bundles.b.segments.known"),
        *(
            ({"segments": {name: 0.1}}, "is not known as a segment, such as known")
            for name in ("unknown", "device=other", "=ios", "slot 0", "slot 256", "slot 01", "slot top", "")
        ),
        ({"segments": {f"a={number}": 0.1 for number in range(513)}}, "bundles.b.segments: should have at most 512"),
    ],
)
def test_rejects_correction_out_of_bounds(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "corrections.json"
    path.write_text(json.dumps({"bundles": {"b": LEARNED.model_dump() | change}}))

    with pytest.raises(CorrectionError, match=reason):
        read_corrections(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"bundles": 1}', b"\xff", b" " * 2**21])
def test_rejects_files_that_are_none(content: bytes, tmp_path: Path) -> None:
    path, loop = tmp_path / "corrections.json", tmp_path / "loop.json"
    path.write_bytes(content)
    loop.symlink_to(loop)

    with pytest.raises(CorrectionError, match="corrections.json"):
        read_corrections(path)
    for unreadable in (loop, tmp_path):
        with pytest.raises(CorrectionError, match="msd recalibrate"):
            read_corrections(unreadable)


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [0.0, 9.0, 1.0], [0.0, 0.0, float("nan")], [0.0, 0.0, 1.0, 0.0]])
def test_rejects_logged_values_out_of_bounds(values: list[float]) -> None:
    with pytest.raises(CorrectionError, match="not centre, shift and slope"):
        Correction.of(values)
