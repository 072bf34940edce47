"""The choice: the fastest that passes, the one that was asked for, or an error that says what was lost."""

import numpy as np
import pytest

from model_export.errors import ExportError
from model_export.precision.choice import LEAST_GAIN, choose, pick
from model_export.precision.evidence import Evidence
from model_export.ranker import HEADS
from model_export.run import Run
from msd.contract.instructions import adds_int8_exactly, cpu_instructions
from msd.contract.precision import Figures, Precision, Tried
from tests.model_export.conftest import quiet


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
def test_auto_is_the_fastest_that_passes_and_gains_enough(tried: dict[Precision, Tried], chosen: Precision) -> None:
    assert pick("auto", tried) == chosen


def test_what_is_asked_for_is_taken_slow_or_not_but_never_unproved() -> None:
    assert pick("int8", {"fp32": _tried(1000), "int8": _tried(2000)}) == "int8"
    with pytest.raises(ExportError, match="int8 does not score as fp32 does on valid rows: ECE is higher; .* or auto"):
        pick("int8", {"fp32": _tried(1000), "int8": _tried(500, "ECE is higher")})


def test_fp32_is_judged_by_nothing(graph: bytes, evidence: Evidence) -> None:
    chosen = choose(graph, HEADS, "fp32", 200, evidence, quiet)
    assert chosen.graph is graph
    assert (chosen.record.chosen, chosen.record.tried) == ("fp32", {})
    assert chosen.run(evidence.request(4)).shape == (1, 4)


def test_auto_tries_all_and_keeps_their_figures(graph: bytes, evidence: Evidence, runs: dict[Precision, Run]) -> None:
    heard: list[tuple[str, int]] = []
    chosen = choose(graph, HEADS, "auto", 50, evidence, lambda doing, done: heard.append((doing, done)))

    record = chosen.record
    assert (record.asked, record.candidates, record.valid_rows) == ("auto", 50, len(evidence.labels))
    assert set(record.tried) == {"fp32", "int8", "bf16"}
    measured = {name for name, one in record.tried.items() if one.figures}
    # The fixture rounds to int8 on any CPU; the export does where sums are exact.
    assert measured == runs.keys() - (set() if adds_int8_exactly(cpu_instructions()) else {"int8"})
    assert record.tried["fp32"].refused is None
    assert record.tried[record.chosen].refused is None
    assert heard[-1] == ("Judging precisions", len(evidence.labels))
    # The graph and how it is run are those of the precision chosen.
    tensors = evidence.request(20)
    np.testing.assert_array_equal(chosen.run(tensors), runs[record.chosen](tensors))
    assert (chosen.graph == graph) == (record.chosen != "int8")
