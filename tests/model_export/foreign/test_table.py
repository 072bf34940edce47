"""Trees with one matrix and a label become a bundle that scores as they do, or are rejected by name."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from model_export.errors import ExportError
from model_export.foreign.bind import bind_inputs, head_outputs, named_columns, spliced_graph
from model_export.foreign.read import read_model
from model_export.foreign.table import with_click_probability, with_named_inputs
from msd.__main__ import main
from msd.contract.bundle import open_bundle
from tests.model_export.conftest import Run
from tests.model_export.foreign.made import SCHEMA, tensors_of
from tests.model_export.foreign.trees import write_trees

NAMES = ("age", "country", "item_counts", "genres", "history_item_id", "price")
WIDE, NARROW = 2 + 1 + 3 + 3 + 4 + 2, 1 + 1 + 3 + 3 + 4 + 1


def _matrix(candidates: int, *, flags: bool) -> np.ndarray:
    tensors, columns = tensors_of(candidates), named_columns(SCHEMA)
    parts = []
    for name in NAMES:
        found = columns[name].of(tensors)
        found = found[..., : found.shape[-1] - (0 if flags else columns[name].optional)]
        parts.append(np.broadcast_to(found.reshape(len(found), -1), (candidates, found[0].size)))
    return np.concatenate(parts, 1).astype(np.float32)


@pytest.mark.parametrize("opset", [None, 9, 15])  # CatBoost writes no opset but that of trees
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("flags", [True, False])
def test_trees_score_as_their_own_graph(tmp_path: Path, flags: bool, zipped: bool, opset: int | None) -> None:
    path = write_trees(tmp_path / "trees.onnx", WIDE if flags else NARROW, zipped=zipped, opset=opset)
    own = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    probabilities = own.run(["probabilities"], {"features": _matrix(7, flags=flags)})[0]
    expected = [one[1] for one in probabilities]
    model = with_click_probability(with_named_inputs(read_model(path), NAMES, SCHEMA))
    spliced = spliced_graph(model, bind_inputs(model, SCHEMA), SCHEMA, head_outputs(model, {}))
    session = onnxruntime.InferenceSession(spliced.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(["pctr"], dict(tensors_of(7)))
    assert len(set(expected)) > 2
    np.testing.assert_array_equal(found, np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("age", "colour"), "--columns: 'colour' is not in the schema, which has age, "),
        (("age", "age"), "--columns: names 'age' twice"),
        (("age", "price"), f"--columns: they are 2 or 4 wide, and the graph's input 'features' is {WIDE} wide"),
    ],
)
def test_rejects_columns_that_are_not_the_matrix(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    model = read_model(write_trees(tmp_path / "trees.onnx", WIDE))
    with pytest.raises(ExportError, match=message):
        with_named_inputs(model, names, SCHEMA)


def test_rejects_more_classes_than_two(tmp_path: Path) -> None:
    model = onnx.load(write_trees(tmp_path / "trees.onnx", WIDE))
    model.graph.node[1].attribute[0].CopyFrom(helper.make_attribute("classlabels_int64s", [0, 1, 2]))
    with pytest.raises(ExportError, match="the graph predicts 3 classes; clicks are two, 0 and 1"):
        with_click_probability(model)


def test_command_serves_trees(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, columns = write_trees(tmp_path / "trees.onnx", 7), "item_counts,user_counts,price"
    command = ["export", "--onnx", str(path), str(run.dataset), str(tmp_path / "bundle"), "--requests", "60"]
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert "if it is a matrix of them, give its --columns" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--columns", columns])
    assert open_bundle(tmp_path / "bundle").manifest.heads == ("pctr",)
