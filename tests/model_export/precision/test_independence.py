"""A candidate's score is its own, in every precision: alone, among 200, at any place, beside whatever neighbours."""

import numpy as np
import pytest
from numpy.typing import NDArray

from model_export.precision.evidence import Evidence
from model_export.run import Run
from msd.contract.assemble import Tensors
from msd.contract.precision import Precision
from tests.model_export.conftest import Exported

# fp32 sums in an order that depends on the number of rows. In int8 sums are exact and scales constant: what is left is
# that order where layers stay fp32, which may at worst move a value over the edge of one of 256 steps. OpenVINO picks
# kernels by the number of rows, and with them where it rounds to the 8 bits of a bf16: by 2^-8 a few times over.
BOUNDS: dict[Precision, float] = {"fp32": 1e-6, "int8": 2e-3, "bf16": 5e-3}
COUNT = 200


def _chosen(exported: Exported, tensors: Tensors, places: list[int]) -> Tensors:
    sides = {spec.name: spec.side for spec in exported.bundle.schema.tensors}
    return {name: one[places] if sides[name] == "item" else one for name, one in tensors.items()}


@pytest.mark.parametrize("precision", BOUNDS)
def test_a_score_does_not_depend_on_its_neighbours(
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
