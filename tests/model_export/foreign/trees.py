"""Trees as LightGBM, XGBoost and CatBoost write them: a matrix in; a label and the probabilities of two classes out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper


def write_trees(
    path: Path, width: int, *, zipped: bool = True, classes: Sequence[int] = (0, 1), opset: int | None = 15
) -> Path:
    """Trees of one split each, of every column at a threshold of its own; with `zipped`, probabilities are a map."""
    draws = np.random.default_rng(0)
    trees, leaves = range(width), [*range(width)] * 2
    ensemble = helper.make_node(
        "TreeEnsembleClassifier",
        ["features"],
        ["label", "raw" if zipped else "probabilities"],
        domain="ai.onnx.ml",
        nodes_treeids=[tree for tree in trees for _ in range(3)],
        nodes_nodeids=[0, 1, 2] * width,
        nodes_featureids=[tree for tree in trees for _ in range(3)],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"] * width,
        nodes_values=[float(one) for tree in trees for one in (draws.normal(1.0), 0.0, 0.0)],
        nodes_truenodeids=[1, 0, 0] * width,
        nodes_falsenodeids=[2, 0, 0] * width,
        class_treeids=leaves,
        class_nodeids=[1] * width + [2] * width,
        class_ids=[0] * 2 * width,
        class_weights=[float(one) for one in draws.normal(0, 0.3, 2 * width)],
        classlabels_int64s=list(classes),
        post_transform="LOGISTIC",
    )
    nodes = [ensemble]
    probabilities = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2])
    if zipped:
        nodes.append(
            helper.make_node("ZipMap", ["raw"], ["probabilities"], domain="ai.onnx.ml", classlabels_int64s=classes)
        )
        of_class = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        probabilities = helper.make_value_info("probabilities", helper.make_sequence_type_proto(of_class))
    inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, width])]
    label = helper.make_tensor_value_info("label", TensorProto.INT64, [None])
    graph = helper.make_graph(nodes, "trees", inputs, [label, probabilities])
    opsets = [helper.make_opsetid("ai.onnx.ml", 1), *([helper.make_opsetid("", opset)] if opset else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8 if opset else 3), path)
    return path
