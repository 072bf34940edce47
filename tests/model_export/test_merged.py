"""The graph of several requests in one run scores each as alone, and one that does not is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from model_export.errors import ExportError
from model_export.export import TOLERANCE, export_bundle
from model_export.inputs import load_inputs
from model_export.merged import asked_merged, merged_graph, prove_merged
from model_export.parity import BundleRows
from msd.contract.bundle import GOLDENS, MERGED_RANKER, open_bundle
from msd.contract.golden import Golden, read_goldens
from tests.model_export.conftest import Exported, Run, quiet

BOTH = pytest.mark.parametrize("name", ["exported", "plain"])


def _goldens(exported: Exported) -> list[Golden]:
    return list(read_goldens(exported.bundle.path(GOLDENS)))


@BOTH
def test_requests_score_together_as_alone(name: str, request: pytest.FixtureRequest) -> None:
    exported: Exported = request.getfixturevalue(name)
    graph = merged_graph(exported.inputs.trained)
    goldens = _goldens(exported)
    assert 0 <= prove_merged(graph, ["pctr"], BundleRows(exported.bundle), goldens, TOLERANCE) <= TOLERANCE

    by_name = {one.name: one for one in onnx.load_from_string(graph).graph.input}
    assert by_name["request_of_candidate"].type.tensor_type.shape.dim[0].dim_param == "candidates"
    assert all(one.type.tensor_type.shape.dim[0].dim_param for one in by_name.values())


def test_a_graph_that_mixes_users_up_is_refused(exported: Exported) -> None:
    model = onnx.load_from_string(merged_graph(exported.inputs.trained))
    # All candidates get the first request's user.
    name = "request_of_candidate"
    for node in model.graph.node:
        node.input[:] = ["nobodys" if one == name else one for one in node.input]
    model.graph.node.insert(0, onnx.helper.make_node("Sub", [name, name], ["nobodys"]))
    with pytest.raises(ExportError, match=r"ranker\.merged\.onnx: scores of requests that are run together differ"):
        prove_merged(model.SerializeToString(), ["pctr"], BundleRows(exported.bundle), _goldens(exported), TOLERANCE)


def test_a_bundle_has_it_when_it_was_asked_for(run: Run, exported: Exported, tmp_path: Path) -> None:
    inputs = load_inputs(run.dataset, run.knowledge, run.student, run.semantic, None)
    assert export_bundle(inputs, tmp_path / "bundle", None, 60, quiet, merged=True)
    bundle = open_bundle(tmp_path / "bundle")

    assert MERGED_RANKER in bundle.manifest.files
    assert MERGED_RANKER not in exported.bundle.manifest.files
    assert not export_bundle(inputs, tmp_path / "bundle", None, 60, quiet, merged=True)
    assert np.isfinite(
        prove_merged(
            bundle.path(MERGED_RANKER).read_bytes(),
            ["pctr"],
            BundleRows(bundle),
            list(read_goldens(bundle.path(GOLDENS))),
            TOLERANCE,
        )
    )


def test_where_there_can_be_none_it_is_said(exported: Exported) -> None:
    recipe = exported.inputs.recipe()
    with pytest.raises(ExportError, match="--merged is for GPUs, which run in fp32"):
        asked_merged(recipe, "int8")
    with pytest.raises(ExportError, match="--merged is for MSD's own ranker"):
        asked_merged(replace(recipe, merged=None), "fp32")
