"""A ranker without torch, made node by node: it depends on every input tensor, and can be poisoned."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from msd.contract.encoder_record import ColdAds
from msd.contract.schema import FeatureSchema
from msd.contract.uncertainty import Uncertainty

POISON_HOUR = "23"
"""With `poison`, the ranker gives NaN at this hour; with `fails`, its run fails."""


PAYS = ColdAds(
    rows=900,
    items=90,
    auc={"row": 0.8, "taught": 0.76, "encoded": 0.75, "category_prior": 0.7},
    gain=0.05,
    ci95=(0.02, 0.08),
    test="made up",
)


@dataclass(frozen=True)
class Recipe:
    """What kind of bundle to build. `seed` changes the weights, and with them the bundle_id; `dense` adds layers of
    matrix products, which is all that other precisions than fp32 change; `int8` has them quantised. `encoder`
    adds a text encoder, of which `cold_ads` says what it gains. `places` makes scores depend on a candidate's place, by
    about what kernels round."""

    seed: int = 0
    poison: bool = False
    fails: bool = False
    places: bool = False
    dense: bool = False
    int8: bool = False
    encoder: bool = False
    cold_ads: ColdAds | None = PAYS
    heads: tuple[str, ...] = ("pctr", "pcvr")
    uncertainty: Uncertainty | None = None


def build_ranker(schema: FeatureSchema, recipe: Recipe) -> onnx.ModelProto:
    """heads = sigmoid(user + context + item + user × item), each a sum over all columns of sin(weight × column)."""
    rng = np.random.default_rng(recipe.seed)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    sums: dict[str, list[str]] = {"user": [], "context": [], "item": []}
    inputs = []
    for spec in schema.tensors:
        rows = "N" if spec.side == "item" else 1
        kind = TensorProto.INT32 if spec.dtype == "int32" else TensorProto.FLOAT
        inputs.append(helper.make_tensor_value_info(spec.name, kind, [rows, *spec.shape]))
        weight = (rng.choice([-1, 1], spec.shape) * rng.uniform(0.2, 0.9, spec.shape)).astype(np.float32)
        weights += [
            numpy_helper.from_array(weight, f"{spec.name}.w"),
            numpy_helper.from_array(np.arange(1, len(spec.shape) + 1, dtype=np.int64), f"{spec.name}.axes"),
        ]
        nodes += [
            helper.make_node("Cast", [spec.name], [f"{spec.name}.f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{spec.name}.f", f"{spec.name}.w"], [f"{spec.name}.m"]),
            helper.make_node("Sin", [f"{spec.name}.m"], [f"{spec.name}.n"]),
            helper.make_node("ReduceSum", [f"{spec.name}.n", f"{spec.name}.axes"], [f"{spec.name}.s"], keepdims=0),
        ]
        sums[spec.side].append(f"{spec.name}.s")
    for side, names in sums.items():
        nodes.append(helper.make_node("Sum", names, [side]))
    weights += [numpy_helper.from_array(np.array([scale], np.float32), f"scale{scale}") for scale in (0.3, 0.5)]
    nodes += [
        helper.make_node("Mul", ["user", "item"], ["cross.raw"]),
        helper.make_node("Mul", ["cross.raw", "scale0.3"], ["cross"]),
        helper.make_node("Sum", ["user", "context", "item", "cross"], ["logit.raw"]),
        helper.make_node("Mul", ["logit.raw", "scale0.3"], ["logit0"]),
    ]
    logit = "logit0"
    adds = (
        (recipe.poison, _poison),
        (recipe.fails, _fails),
        (recipe.places, _places),
        (recipe.dense, _dense),
    )
    for wanted, add in adds:
        if wanted:
            logit = add(schema, nodes, weights, logit)
    nodes += [
        helper.make_node("Sigmoid", [logit], ["pctr"]),
        helper.make_node("Mul", [logit, "scale0.5"], ["pcvr.logit"]),
        helper.make_node("Sigmoid", ["pcvr.logit"], ["pcvr"]),
    ]
    outputs = [helper.make_tensor_value_info(head, TensorProto.FLOAT, ["N"]) for head in recipe.heads]
    graph = helper.make_graph(nodes, "ranker", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def _poison(schema: FeatureSchema, nodes: list[Any], weights: list[Any], logit: str) -> str:
    """Adds 0 / (hour − POISON_HOUR), which is 0 but at that hour, where it is NaN."""
    index = schema.indexed("context")[0].index[POISON_HOUR]
    weights += [
        numpy_helper.from_array(np.array([float(index)], np.float32), "poison.hour"),
        numpy_helper.from_array(np.array([0], np.int64), "poison.column"),
        numpy_helper.from_array(np.zeros(1, np.float32), "poison.zero"),
    ]
    nodes += [
        helper.make_node("Gather", ["context_categorical.f", "poison.column"], ["poison.raw"], axis=1),
        helper.make_node("Reshape", ["poison.raw", "poison.shape"], ["poison.value"]),
        helper.make_node("Sub", ["poison.value", "poison.hour"], ["poison.distance"]),
        helper.make_node("Div", ["poison.zero", "poison.distance"], ["poison"]),
        helper.make_node("Add", [logit, "poison"], ["logit.poison"]),
    ]
    weights.append(numpy_helper.from_array(np.array([-1], np.int64), "poison.shape"))
    return "logit.poison"


def _fails(schema: FeatureSchema, nodes: list[Any], weights: list[Any], logit: str) -> str:
    """Adds the number 0 of a list of as many as there are hours before POISON_HOUR, whose place is beyond its end at
    that hour."""
    index = schema.indexed("context")[0].index[POISON_HOUR]
    weights += [
        numpy_helper.from_array(np.zeros(index, np.float32), "fails.list"),
        numpy_helper.from_array(np.array([0], np.int64), "fails.column"),
        numpy_helper.from_array(np.array([-1], np.int64), "fails.shape"),
    ]
    nodes += [
        helper.make_node("Gather", ["context_categorical", "fails.column"], ["fails.raw"], axis=1),
        helper.make_node("Reshape", ["fails.raw", "fails.shape"], ["fails.place"]),
        helper.make_node("Gather", ["fails.list", "fails.place"], ["fails.nothing"]),
        helper.make_node("Add", [logit, "fails.nothing"], ["logit.fails"]),
    ]
    return "logit.fails"


def _places(schema: FeatureSchema, nodes: list[Any], weights: list[Any], logit: str) -> str:
    """Adds a millionth for each place, up to six."""
    for name, value in (("first", 0), ("step", 1), ("period", 7)):
        weights.append(numpy_helper.from_array(np.array(value, np.int64), f"places.{name}"))
    weights.append(numpy_helper.from_array(np.array(1e-6, np.float32), "places.scale"))
    nodes += [
        helper.make_node("Size", [logit], ["places.count"]),
        helper.make_node("Range", ["places.first", "places.count", "places.step"], ["places.all"]),
        helper.make_node("Mod", ["places.all", "places.period"], ["places.few"]),
        helper.make_node("Cast", ["places.few"], ["places.f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["places.f", "places.scale"], ["places.added"]),
        helper.make_node("Add", [logit, "places.added"], ["logit.places"]),
    ]
    return "logit.places"


def _dense(schema: FeatureSchema, nodes: list[Any], weights: list[Any], logit: str) -> str:
    """Adds a network of one hidden layer over the candidates' vectors."""
    rng = np.random.default_rng(5)
    (width,) = next(spec.shape for spec in schema.tensors if spec.name == "item_semantic")
    weights += [
        numpy_helper.from_array(rng.normal(0, 0.4, (width, 64)).astype(np.float32), "dense.first"),
        numpy_helper.from_array(rng.normal(0, 0.4, (64, 32)).astype(np.float32), "dense.second"),
        numpy_helper.from_array(np.array([1], np.int64), "dense.axis"),
    ]
    nodes += [
        helper.make_node("MatMul", ["item_semantic.f", "dense.first"], ["dense.raw"]),
        helper.make_node("Relu", ["dense.raw"], ["dense.hidden"]),
        helper.make_node("MatMul", ["dense.hidden", "dense.second"], ["dense.out"]),
        helper.make_node("ReduceMean", ["dense.out", "dense.axis"], ["dense.mean"], keepdims=0),
        helper.make_node("Add", [logit, "dense.mean"], ["logit.dense"]),
    ]
    return "logit.dense"
