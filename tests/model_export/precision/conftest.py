"""The evidence of the tiny run, and its graph in the precisions that this machine runs."""

import pytest

from model_export.graph import Run, open_run
from model_export.parity import BundleRows
from model_export.precision.evidence import Evidence
from model_export.precision.int8 import quantise
from model_export.ranker import HEADS
from msd.contract.bundle import RANKER
from msd.contract.precision import Precision
from tests.bundles.bf16 import has_bf16
from tests.model_export.conftest import Exported


@pytest.fixture(scope="session")
def graph(exported: Exported) -> bytes:
    """The tiny run's graph in fp32."""
    return exported.bundle.path(RANKER).read_bytes()


@pytest.fixture(scope="session")
def evidence(exported: Exported) -> Evidence:
    """The tiny run's rows."""
    return Evidence(exported.inputs.dataset, exported.features, BundleRows(exported.bundle))


@pytest.fixture(scope="session")
def in_int8(graph: bytes, evidence: Evidence) -> bytes:
    """The tiny run's graph, quantised by its own rows."""
    return quantise(graph, evidence.train())


@pytest.fixture(scope="session")
def runs(graph: bytes, in_int8: bytes) -> dict[Precision, Run]:
    """Whatever of the graph runs here; bf16 may not."""
    found: dict[Precision, Run] = {"fp32": open_run(graph, "fp32", HEADS), "int8": open_run(in_int8, "int8", HEADS)}
    if has_bf16():
        found["bf16"] = open_run(graph, "bf16", HEADS)
    return found
