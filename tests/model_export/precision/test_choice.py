"""The choice of a precision: evidence, gate, the fastest that passes, and scores independent of their neighbours."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model_export.errors import ExportError
from model_export.precision.choice import AUC_BOUND, ECE_BOUND, LOGLOSS_BOUND, choose, judge, pick
from model_export.precision.evidence import Evidence
from model_export.ranker import HEADS
from model_export.run import Run
from msd.contract.instructions import adds_int8_exactly, cpu_instructions
from msd.contract.precision import LEAST_GAIN, Figures, Precision, Tried
from msd.contract.tensors import Tensors
from msd.dataset.split import Part
from msd.metrics import measure_pooled
from native.bundle_rows import BundleRows
from tests.model_export.conftest import Exported

Floats = NDArray[np.float64]
ROWS = 6_000


def _world(rows: int = ROWS, users: int = 200) -> tuple[Floats, NDArray[np.int64], Floats]:
    rng = np.random.default_rng(11)
    logits = rng.normal(-1, 1.2, rows)
    probabilities = 1 / (1 + np.exp(-logits))
    return (rng.random(rows) < probabilities).astype(np.float64), rng.integers(0, users, rows), probabilities


def _logit(probabilities: Floats) -> Floats:
    return np.log(probabilities / (1 - probabilities))


def _moved(probabilities: Floats, by: Floats | float) -> Floats:
    return 1 / (1 + np.exp(-(_logit(probabilities) + by)))


@settings(max_examples=8)
@given(st.integers(0, 2**31))
def test_rounding_passes(seed: int) -> None:
    labels, users, plain = _world()
    verdict = judge(labels, users, plain, _moved(plain, np.random.default_rng(seed).normal(0, 0.005, ROWS)))

    assert verdict.refused is None
    assert verdict.auc_worst is not None
    assert -AUC_BOUND < verdict.auc_worst < AUC_BOUND
    assert verdict.logloss_worst is not None
    assert verdict.logloss_worst < LOGLOSS_BOUND


@pytest.mark.parametrize(
    ("by", "message"),
    [
        (np.random.default_rng(1).normal(0, 0.3, ROWS), "AUC may be lower by 0.0"),
        (0.05, "predicted over observed clicks moves by 0.0"),
        (np.where(np.arange(ROWS) % 2, 0.4, -0.4), "logloss may be higher by 0.0"),
        # Steeper, but as likely over all: rank and mean stay, each score is wrong.
        (None, f"^(?!.*AUC).*ECE is higher by 0.0[0-9]*, more than {ECE_BOUND}"),
    ],
)
def test_refusal_names_lost_metric(by: Floats | float | None, message: str) -> None:
    labels, users, plain = _world()
    shift = 0.3 * (_logit(plain) - _logit(plain).mean()) if by is None else by
    assert re.search(message, judge(labels, users, plain, _moved(plain, shift)).refused or "")


def test_too_few_rows_are_refused() -> None:
    """Rounding of this size passes on more rows."""
    labels, users, plain = _world(60)
    refused = judge(labels, users, plain, _moved(plain, np.random.default_rng(2).normal(0, 0.08, 60))).refused
    assert "AUC may be lower" in (refused or "")


def test_few_users_are_resampled_by_rows() -> None:
    """A log of one user would otherwise always have an interval of no width."""
    labels, _, plain = _world()
    other = _moved(plain, np.random.default_rng(3).normal(0, 0.02, ROWS))
    one = judge(labels, np.zeros(ROWS, np.int64), plain, other)
    rows = judge(labels, np.arange(ROWS), plain, other)

    assert (one.auc_worst, one.logloss_worst) == (rows.auc_worst, rows.logloss_worst)
    assert one.auc_worst != measure_pooled(labels, plain)["auc"] - measure_pooled(labels, other)["auc"]


def _tried(microseconds: float, refused: str | None = None) -> Tried:
    figures = Figures(auc=0.7, logloss=0.5, ece=0.01, predicted_over_observed=1.0, microseconds=microseconds)
    return Tried(figures=figures, auc_worst=0.0, logloss_worst=0.0, refused=refused)


@pytest.mark.parametrize(
    ("tried", "chosen"),
    [
        ({"fp32": _tried(1000)}, "fp32"),
        ({"fp32": _tried(1000), "int8": _tried(600), "bf16": _tried(500)}, "bf16"),
        ({"fp32": _tried(1000), "int8": _tried(600), "bf16": _tried(500, "AUC may be lower")}, "int8"),
        ({"fp32": _tried(1000), "int8": _tried(600, "ECE is higher"), "bf16": _tried(500, "AUC")}, "fp32"),
        ({"fp32": _tried(1000), "int8": Tried(refused="no layer"), "bf16": _tried(1000 / LEAST_GAIN + 1)}, "fp32"),
        ({"fp32": _tried(1000), "bf16": _tried(1000 / LEAST_GAIN - 1)}, "bf16"),
    ],
)
def test_auto_picks_fastest_that_passes(tried: dict[Precision, Tried], chosen: Precision) -> None:
    assert pick("auto", tried) == chosen


def test_requested_precision_is_kept_if_it_passes() -> None:
    assert pick("int8", {"fp32": _tried(1000), "int8": _tried(2000)}) == "int8"
    with pytest.raises(ExportError, match="int8 does not score as fp32 does on valid rows: ECE is higher; .* or auto"):
        pick("int8", {"fp32": _tried(1000), "int8": _tried(500, "ECE is higher")})


def test_auto_records_all_precisions(graph: bytes, evidence: Evidence, runs: dict[Precision, Run]) -> None:
    steps: list[tuple[str, int]] = []
    chosen = choose(graph, HEADS, "auto", 50, evidence, lambda doing, done: steps.append((doing, done)))

    record = chosen.record
    assert (record.asked, record.candidates, record.valid_rows) == ("auto", 50, len(evidence.labels))
    assert set(record.tried) == {"fp32", "int8", "bf16"}
    measured = {name for name, one in record.tried.items() if one.figures}
    # The fixture rounds to int8 on any CPU; the export does where sums are exact.
    assert measured == runs.keys() - (set() if adds_int8_exactly(cpu_instructions()) else {"int8"})
    assert record.tried["fp32"].refused is None
    assert record.tried[record.chosen].refused is None
    assert steps[-1] == ("Judging precisions", len(evidence.labels))
    # The graph and how it is run are those of the precision chosen.
    tensors = evidence.request(20)
    np.testing.assert_array_equal(chosen.run(tensors), runs[record.chosen](tensors))
    assert set(chosen.runs) == {name for name, one in record.tried.items() if not one.refused}
    assert (chosen.int8 is not None) == ("int8" in chosen.runs)


def test_evidence_has_valid_and_train_rows(exported: Exported, evidence: Evidence) -> None:
    specs, features, events = exported.bundle.schema.tensors, exported.features, exported.inputs.dataset.events
    valid = features.of_part(Part.VALID)
    assert evidence.labels.tolist() == events["label"].to_numpy()[valid].tolist()
    users = [features.user.entities.ids[user] for user in evidence.users]
    assert users == events["user_id"].to_numpy()[valid].tolist()

    rows = list(evidence.valid())
    assert len(rows) == len(evidence.labels)
    for tensors in rows[:20]:
        assert {name: one.shape for name, one in tensors.items()} == {spec.name: (1, *spec.shape) for spec in specs}
        assert all(tensor.flags.c_contiguous for tensor in tensors.values())
    train = list(evidence.train())
    assert len(train) == len(features.of_part(Part.TRAIN))
    # Rows differ, as users and items do.
    assert len({tensors["item_categorical"].tobytes() for tensors in train}) > 10
    tensors = evidence.request(120)
    for spec in specs:
        assert tensors[spec.name].shape == (120 if spec.side == "item" else 1, *spec.shape)
    assert len(np.unique(tensors["item_categorical"], axis=0)) > 10


def test_valid_rows_of_one_label_are_an_error(exported: Exported) -> None:
    features = replace(exported.features, labels=torch.zeros_like(exported.features.labels))
    evidence = Evidence(exported.inputs.dataset, features, BundleRows.of(exported.bundle))
    assert evidence.request(3)  # to time a graph by them, they will do
    with pytest.raises(ExportError, match="the valid rows have one label only: .* use --precision fp32"):
        evidence.valid()


# fp32 sums in an order that depends on the number of rows. In int8 sums are exact and scales constant: what is left is
# that order where layers stay fp32, which may at worst move a value over the edge of one of 256 steps. OpenVINO picks
# kernels by the number of rows, and with them where it rounds to the 8 bits of a bf16: by 2^-8 a few times over.
BOUNDS: dict[Precision, float] = {"fp32": 1e-6, "int8": 2e-3, "bf16": 5e-3}
COUNT = 200


def _chosen(exported: Exported, tensors: Tensors, places: list[int]) -> Tensors:
    sides = {spec.name: spec.side for spec in exported.bundle.schema.tensors}
    return {name: one[places] if sides[name] == "item" else one for name, one in tensors.items()}


@pytest.mark.parametrize("precision", BOUNDS)
def test_score_does_not_depend_on_neighbours(
    precision: Precision, exported: Exported, evidence: Evidence, runs: dict[Precision, Run]
) -> None:
    if precision not in runs:
        return  # a CPU without bf16: nothing is ever scored in it
    bound, tensors = BOUNDS[precision], evidence.request(COUNT)

    def run(one: Tensors) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = runs[precision](one)[0]
        return scores

    together = run(tensors)
    assert together.std() > 10 * bound

    alone = [run(_chosen(exported, tensors, [place]))[0] for place in range(0, COUNT, 7)]
    np.testing.assert_allclose(alone, together[::7], atol=bound, rtol=0)
    order = np.random.default_rng(0).permutation(COUNT)
    np.testing.assert_allclose(run(_chosen(exported, tensors, order.tolist())), together[order], atol=bound, rtol=0)
    half = run(_chosen(exported, tensors, list(range(0, COUNT, 2))))
    np.testing.assert_allclose(half, together[::2], atol=bound, rtol=0)

    wild = {name: one.copy() for name, one in tensors.items()}
    for name in ("item_dense", "item_semantic"):
        wild[name][COUNT // 2 :] *= 1_000
    np.testing.assert_allclose(run(wild)[: COUNT // 2], together[: COUNT // 2], atol=bound, rtol=0)
