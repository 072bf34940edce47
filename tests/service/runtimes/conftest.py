"""Bundles for each precision, and the tensors of their goldens."""

from collections.abc import Callable
from pathlib import Path

import pytest

from msd.contract.bundle import GOLDENS, Bundle, open_bundle
from msd.contract.golden import read_goldens
from msd.contract.precision import Precision, PrecisionRecord
from msd.contract.tensors import Tensors
from native.bundle_rows import BundleRows
from tests.bundles.factory import build_bundle, reseal
from tests.bundles.ranker_graph import Recipe

TOLERANCES = {
    "onnxruntime-cpu-fp32": 1e-5,
    "onnxruntime-cpu-int8": 0.05,
    "openvino-cpu-fp32": 1e-5,
    "openvino-cpu-bf16": 0.05,
}
Make = Callable[[Precision], Bundle]
Asked = list[tuple[Tensors, list[float]]]


@pytest.fixture(scope="session")
def made_for(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Bundles of one network whose manifests choose a precision; nobody changes them."""
    made: dict[Precision, Bundle] = {}

    def make(precision: Precision) -> Bundle:
        if precision not in made:
            folder: Path = tmp_path_factory.mktemp("bundles") / precision
            build_bundle(folder, Recipe(dense=True, int8=precision == "int8"))
            reseal(folder, tolerances=TOLERANCES, precision=PrecisionRecord(asked=precision, chosen=precision))
            made[precision] = open_bundle(folder)
        return made[precision]

    return make


@pytest.fixture(scope="session")
def asked(made_for: Make) -> Asked:
    """The tensors of each golden and its expected pCTR."""
    bundle = made_for("fp32")
    rows = BundleRows.of(bundle)
    return [(rows.tensors(golden), golden.expected["pctr"]) for golden in read_goldens(bundle.path(GOLDENS))]
