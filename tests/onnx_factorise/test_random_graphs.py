"""Random graphs of the operators that rankers are made of, both sides mixed: the factorised graph is the plain one."""

from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnx_factorise.pass_ import factorise
from onnx_factorise.proof import prove
from tests.onnx_factorise.graphs import feeds_of

Shape = tuple[int | str, ...]


def _inputs(places: int) -> dict[str, Shape]:
    return {
        "user": (1, 4),
        "history": (1, places, 4),
        "mask": (1, places),
        "column": (1, places, 1),
        "item": ("N", 4),
        "other": ("N", 2),
        "rows": ("N", places, 2),
    }


@dataclass
class Building:
    """A graph as it grows: values with their shapes, nodes, weights."""

    places: int
    """Of the history. Other axes are 1, 2 or 4."""
    values: dict[str, Shape] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.values |= _inputs(self.places)

    def add(self, kind: str, inputs: list[str], shape: Shape, **attributes: int | list[int] | float) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))  # type: ignore[arg-type]
        self.values[name] = shape
        return name

    def constant(self, value: object) -> str:
        name, array = f"w{len(self.weights)}", np.asarray(value)
        whole = array.dtype.kind == "i"
        self.weights.append(numpy_helper.from_array(array.astype(np.int64 if whole else np.float32), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(values)

    def model(self, output: str) -> onnx.ModelProto:
        info, given = helper.make_tensor_value_info, _inputs(self.places).items()
        inputs = [info(name, TensorProto.FLOAT, shape) for name, shape in given]
        inputs.append(info("ids", TensorProto.INT64, ("N", 3)))
        result = info(output, TensorProto.FLOAT, [f"d{n}" for n, _ in enumerate(self.values[output])])
        graph = helper.make_graph(self.nodes, "random", inputs, [result], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _broadcast(one: Shape, other: Shape) -> Shape | None:
    rank = max(len(one), len(other))
    pairs = zip((1,) * (rank - len(one)) + one, (1,) * (rank - len(other)) + other, strict=True)
    shape: list[int | str] = []
    for left, right in pairs:
        if left != right and 1 not in (left, right):
            return None
        shape.append(right if left == 1 else left)
    return tuple(shape) if "N" not in shape[1:] else None


def _binary(built: Building, draw: st.DrawFn, name: str) -> None:
    shape = built.values[name]
    fitting = [(o, _broadcast(shape, s)) for o, s in built.values.items()]
    other, result = draw(st.sampled_from([(o, s) for o, s in fitting if s is not None]))
    assert result is not None
    kind = draw(st.sampled_from(["Add", "Sub", "Mul", "Mul", "Max", "Min", "Div"]))
    if kind == "Div":  # by what is far from nought
        other = built.add("Exp", [built.add("Tanh", [other], built.values[other])], built.values[other])
    built.add(kind, [name, other], result)


def _unary(built: Building, draw: st.DrawFn, name: str) -> None:
    kind = draw(st.sampled_from(["Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Identity"]))
    built.add(kind, [name], built.values[name])


def _linear(built: Building, draw: st.DrawFn, name: str) -> None:
    shape, columns = built.values[name], draw(st.sampled_from([1, 2, 4]))
    weights = np.random.default_rng(len(built.nodes)).standard_normal((int(shape[-1]), columns)) / 2
    if len(shape) == 2 and draw(st.booleans()):
        bias = built.constant(np.linspace(-1, 1, columns))
        built.add("Gemm", [name, built.constant(weights.T), bias], (shape[0], columns), transB=1)
    else:
        wide = built.add("MatMul", [name, built.constant(weights)], (*shape[:-1], columns))
        biases = [
            o for o, s in built.values.items() if s[0] == 1 and _broadcast(built.values[wide], s) == built.values[wide]
        ]
        if draw(st.booleans()) and biases:
            built.add("Add", [wide, draw(st.sampled_from(biases))], built.values[wide])


def _product(built: Building, draw: st.DrawFn, name: str) -> None:
    """With the history as the matrix: [B, 3] @ [1, 3, 4] or [B, …, 4] @ [1, 4, 3]."""
    shape = built.values[name]
    row = name if len(shape) == 3 else built.add("Unsqueeze", [name, built.ints(1)], (shape[0], 1, shape[1]))
    places, width = built.values[row][1:]
    if width == built.places:
        built.add("MatMul", [row, "history"], (shape[0], places, 4))
    elif width == 4:
        turned = built.add("Transpose", ["history"], (1, 4, built.places), perm=[0, 2, 1])
        built.add("MatMul", [row, turned], (shape[0], places, built.places))
    elif places == built.places:
        turned = built.add("Transpose", [row], (shape[0], width, places), perm=[0, 2, 1])
        built.add("MatMul", [turned, "history"], (shape[0], width, 4))


def _tiled(built: Building, name: str) -> str:
    shape = built.values[name]
    count = built.add("Shape", ["item"], (1,), start=0, end=1)
    rest = built.ints(*(int(dim) for dim in shape[1:]))
    to = built.add("Concat", [count, rest], (len(shape),), axis=0)
    for shapeless in (count, to):
        del built.values[shapeless]
    return built.add("Expand", [name, to], ("N", *shape[1:]))


def _concat(built: Building, draw: st.DrawFn, name: str) -> None:
    shape = built.values[name]
    axis = draw(st.integers(1, len(shape) - 1))
    rest = shape[1:axis], shape[axis + 1 :], len(shape)
    fitting = [other for other, s in built.values.items() if (s[1:axis], s[axis + 1 :], len(s)) == rest]
    others = draw(st.lists(st.sampled_from(fitting), min_size=1, max_size=3))
    parts = [name, *others]
    if any(built.values[part][0] == "N" for part in parts):
        parts = [part if built.values[part][0] == "N" else _tiled(built, part) for part in parts]
    total = sum(int(built.values[part][axis]) for part in parts)
    first = built.values[parts[0]]
    if total <= 16:
        joined = (*first[:axis], total, *first[axis + 1 :])
        built.add("Concat", parts, joined, axis=draw(st.sampled_from([axis, axis - len(shape)])))


def _along(built: Building, draw: st.DrawFn, name: str) -> None:
    shape = built.values[name]
    axis = draw(st.integers(1, len(shape) - 1))
    kind = draw(st.sampled_from(["Softmax", "ReduceSum", "ReduceMean", "ReduceMax", "LayerNormalization"]))
    if kind == "Softmax":
        built.add(kind, [name], shape, axis=axis)
    elif kind == "LayerNormalization":
        width = int(shape[-1])
        scale, shift = built.constant(np.linspace(0.5, 1.5, width)), built.constant(np.linspace(-1, 1, width))
        built.add(kind, [name, scale, shift], shape, axis=-1, epsilon=0.1)
    else:
        keeps = draw(st.booleans()) or len(shape) < 3
        left = (*shape[:axis], *((1,) if keeps else ()), *shape[axis + 1 :])
        built.add(kind, [name, built.ints(axis)], left, keepdims=int(keeps))


def _layout(built: Building, draw: st.DrawFn, name: str) -> None:
    shape = built.values[name]
    if len(shape) == 2:
        axis = draw(st.sampled_from([1, 2]))
        built.add("Unsqueeze", [name, built.ints(axis)], (shape[0], 1, shape[1]) if axis == 1 else (*shape, 1))
        return
    places, width = int(shape[1]), int(shape[2])
    kind = draw(st.sampled_from(["transpose", "flat", "slice", "pick"]))
    if kind == "transpose":
        built.add("Transpose", [name], (shape[0], width, places), perm=[0, 2, 1])
    elif kind == "flat":
        built.add("Reshape", [name, built.ints(-1, places * width)], (shape[0], places * width))
    elif kind == "slice" and width > 1:
        bounds = [built.ints(one) for one in (1, width, 2)]
        built.add("Slice", [name, *bounds], (shape[0], places, width - 1))
    else:
        built.add("Gather", [name, built.constant(places - 1)], (shape[0], width), axis=1)


def _pairs(built: Building, draw: st.DrawFn, name: str) -> None:
    """Target attention's first layer: history, value, their difference and product."""
    shape = built.values[name]
    if len(shape) != 2 or shape[1] != 4:
        return
    row = built.add("Unsqueeze", [name, built.ints(1)], (shape[0], 1, 4))
    pair: Shape = (shape[0], built.places, 4)
    parts = [built.add(kind, ["history", row], pair) for kind in draw(st.sampled_from([["Mul"], ["Sub", "Mul"]]))]
    joined = built.add("Concat", parts, (*pair[:2], 4 * len(parts)), axis=2)
    _linear(built, draw, joined)


def _pooled(built: Building, draw: st.DrawFn, name: str) -> None:
    """The history weighted by a value of its length, or a value masked and summed."""
    shape = built.values[name]
    if shape[1:] == (built.places,):
        weights = built.add("Unsqueeze", [name, built.ints(2)], (shape[0], built.places, 1))
        each = built.add("Mul", [weights, "history"], (shape[0], built.places, 4))
    elif shape[1] == built.places:
        mask = built.add("Unsqueeze", ["mask", built.ints(2)], (1, built.places, 1))
        each = built.add("Mul", [mask, name], shape)
    else:
        return
    built.add("ReduceSum", [each, built.ints(1)], (shape[0], built.values[each][2]), keepdims=0)


def _crossed(built: Building, draw: st.DrawFn, name: str) -> None:
    """A cross layer of rank 1 over the user and a value."""
    shape = built.values[name]
    if len(shape) != 2 or shape[0] != "N":
        return
    width = 4 + int(shape[1])
    x0 = built.add("Concat", [_tiled(built, "user"), name], ("N", width), axis=1)
    x, rng = x0, np.random.default_rng(len(built.nodes))
    for _ in range(draw(st.integers(1, 2))):
        down, up = (built.constant(rng.standard_normal(sizes) / 2) for sizes in ((width, 1), (1, width)))
        narrow = built.add("MatMul", [x, down], ("N", 1))
        wide = built.add("MatMul", [narrow, up], ("N", width))
        biased = built.add("Add", [wide, built.constant(np.linspace(-1, 1, width))], ("N", width))
        x = built.add("Add", [built.add("Mul", [x0, biased], ("N", width)), x], ("N", width))
    built.add("MatMul", [x, built.constant(rng.standard_normal((width, 2)))], ("N", 2))


def _heads(built: Building, draw: st.DrawFn, name: str) -> None:
    """One target over the history, by two heads."""
    shape = built.values[name]
    if len(shape) != 2 or shape[1] != 4:
        return
    query = built.add("Reshape", [name, built.ints(-1, 2, 1, 2)], (shape[0], 2, 1, 2))
    split = built.add("Reshape", ["history", built.ints(1, built.places, 2, 2)], (1, built.places, 2, 2))
    keys = built.add("Transpose", [split], (1, 2, 2, built.places), perm=[0, 2, 3, 1])
    scores = built.add("MatMul", [query, keys], (shape[0], 2, 1, built.places))
    for four in (query, split, keys, scores):
        del built.values[four]
    built.add("Reshape", [scores, built.ints(-1, 2 * built.places)], (shape[0], 2 * built.places))


def _looked_up(built: Building, draw: st.DrawFn, name: str) -> None:
    """Columns of indices, each in a table of its own."""
    found = []
    for column in draw(st.lists(st.integers(0, 2), min_size=1, max_size=3)):
        indices = built.add("Gather", ["ids", built.constant(column)], ("N",), axis=1)
        del built.values[indices]
        table = np.random.default_rng(column).standard_normal((5 + column, 2))
        found.append(built.add("Gather", [built.constant(table), indices], ("N", 2)))
    built.add("Concat", found, ("N", 2 * len(found)), axis=1)


def _shares(built: Building, draw: st.DrawFn, name: str) -> None:
    """A softmax over the user's scores and a candidate's."""
    shape = built.values[name]
    if len(shape) != 2 or shape[0] != "N":
        return
    width = 4 + int(shape[1])
    parts = [_tiled(built, "user"), name]
    joined = built.add("Concat", draw(st.permutations(parts)), ("N", width), axis=1)
    shares = built.add("Softmax", [joined], ("N", width), axis=1)
    _linear(built, draw, shares)


STEPS = [_along, _binary, _concat, _crossed, _heads, _layout, _linear, _looked_up, _pairs, _pooled, _product, _shares]
STEPS.append(_unary)


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    """A graph of up to a dozen steps; its output is by candidate."""
    # 3 is no other axis's length, so that a wrong axis fails; 4 is others' too, so that a wrong one does not.
    built = Building(draw(st.sampled_from([3, 4])))
    for _ in range(draw(st.integers(2, 12))):
        recent = list(built.values)[-4:] if draw(st.booleans()) else list(built.values)
        name = draw(st.sampled_from(recent))
        draw(st.sampled_from(STEPS))(built, draw, name)
    last = list(built.values)[-1]
    bounded = built.add("Tanh", [last], built.values[last])
    if built.values[bounded][0] != "N":
        bounded = built.add("Add", [_tiled(built, bounded), bounded], ("N", *built.values[bounded][1:]))
    return built.model(bounded)


@settings(max_examples=200)
@given(model=models())
def test_random_graph_is_factorised_exactly(model: onnx.ModelProto) -> None:
    report = factorise(model, "N").report
    assert not any("failed" in entry.left for entry in report.entries)
    feeds = [feeds_of(model, candidates, seed=1) for candidates in (1, 2, 5)]
    assert prove(model, "N", feeds, tolerance=1e-10) <= 1e-10
