"""The factorising pass: from a plain graph and its inputs' sides to the same function with shared work done once.

The pass is a partial evaluation. Nodes are taken in order. Their outputs stay symbolic values until an operator needs a
tensor. An operator without a rule gets real inputs and is copied. Each family of operators has its own file of rules.
Splitting products over concatenated sides is an idea of MaRI (arXiv 2602.23105).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper, numpy_helper

from model_export.factorise import axes, elementwise, layout, matmul
from model_export.factorise.emit import Emitted, Emitter, Tensor
from model_export.factorise.facts import Fact, find_facts, real_inputs
from model_export.factorise.report import NodeReport, Report
from model_export.factorise.scope import Node, Scope, laid
from model_export.factorise.shapes import RuleDoesNotApply, Shape
from model_export.factorise.values import Affine, Opaque, Value
from msd.contract.schema import Side

_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
_FAMILIES = (elementwise, layout, matmul, axes)


@dataclass(frozen=True)
class Factorised:
    """The factorised graph and its report."""

    model: onnx.ModelProto
    report: Report


def factorise(model: onnx.ModelProto, sides: Mapping[str, Side]) -> Factorised:
    """Return the same function of the same inputs, with shared work done once. `sides`: the side of each input.

    User and context inputs have one row, item inputs a dynamic first axis. A graph that cannot be split is left whole.
    """
    try:
        if any(attribute.type in _GRAPHS for node in model.graph.node for attribute in node.attribute):
            raise RuleDoesNotApply("it has subgraphs")
        return _Pass(model, find_facts(model, _item_axis(model, sides))).run()
    except RuleDoesNotApply as reason:
        whole = NodeReport(model.graph.name, "graph", left=f"left as it was: {reason}")
        count = len(model.graph.node)
        return Factorised(model, Report((whole,), count, count))


def _item_axis(model: onnx.ModelProto, sides: Mapping[str, Side]) -> str:
    """Return the name of the item axis, empty if it is unnamed."""
    item = next(value for value in real_inputs(model.graph) if sides[value.name] == "item")
    return str(item.type.tensor_type.shape.dim[0].dim_param)


class _Pass:
    """One run over one graph."""

    def __init__(self, model: onnx.ModelProto, facts: Mapping[str, Fact]) -> None:
        self._model, self._facts = model, facts
        self._handlers = {kind: handler for family in _FAMILIES for kind, handler in family.HANDLERS.items()}
        inputs = {value.name: _given(value.name, facts[value.name]) for value in real_inputs(model.graph)}
        self._scope = Scope(Emitter(_unused_prefix(model), inputs.values()))
        self._values: dict[str, Value] = {name: self._scope.wrap(tensor) for name, tensor in inputs.items()}
        self._initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        for name, tensor in self._initializers.items():
            self._values[name] = self._scope.wrap(self._scope.emit.constant(numpy_helper.to_array(tensor), name))
        self._entries: list[NodeReport] = []

    def run(self) -> Factorised:
        """Rewrite node by node, then keep the nodes that outputs need."""
        for proto in self._model.graph.node:
            if proto.op_type == "Identity":
                self._values[proto.output[0]] = self._values[proto.input[0]]
            elif not self._known(proto):
                self._rewrite(proto)
        outputs = {value.name: self._output_of(value.name) for value in self._model.graph.output}
        made = write_model(self._model, self._scope.emit.nodes, outputs, self._initializers)
        before, after = len(self._model.graph.node), len(made.graph.node)
        return Factorised(made, Report(tuple(self._entries), before, after))

    def _output_of(self, name: str) -> Tensor:
        self._scope.credited.clear()
        tensor = self._scope.whole(self._values[name])
        self._note(name, "output")
        return tensor

    def _note(self, node: str, operator: str, left: str = "") -> None:
        if left or self._scope.credited:
            self._entries.append(NodeReport(node, operator, tuple(self._scope.credited), left))

    def _known(self, proto: onnx.NodeProto) -> bool:
        """Evaluate a node to constants and axis lengths; return False if its outputs depend on inputs' contents."""
        for name in proto.output:
            fact = self._facts.get(name)
            if name and (fact is None or fact.shape is None or (fact.value is None and fact.lengths is None)):
                return False
        values: dict[str, Value] = {}
        for name in filter(None, proto.output):
            fact = self._facts[name]
            try:
                values[name] = self._constant(fact)
            except RuleDoesNotApply:
                return False
        self._values |= values
        return True

    def _constant(self, fact: Fact) -> Affine:
        emit = self._scope.emit
        if fact.value is not None:
            return self._scope.wrap(emit.constant(fact.value), fact.shape)
        lengths = emit.lengths(fact.lengths or ())
        made = lengths if lengths.dtype == fact.dtype else emit.op("Cast", [lengths], lengths.shape, fact.dtype)
        return self._scope.wrap(emit.reshape(made, fact.shape or ()), fact.shape)

    def _rewrite(self, proto: onnx.NodeProto) -> None:
        self._scope.credited.clear()
        try:
            made = self._split(proto)
        except Exception as reason:  # any unexpected error in a rule: the node is copied, and the report says so
            self._scope.credited.clear()
            self._copy(proto, str(reason) if isinstance(reason, RuleDoesNotApply) else f"its rule failed: {reason!r}")
            return
        self._values |= made
        self._note(_name(proto), proto.op_type)

    def _split(self, proto: onnx.NodeProto) -> dict[str, Value]:
        handler = self._handlers.get(proto.op_type)
        facts = [self._facts.get(name) for name in proto.output]
        if handler is None or proto.domain not in ("", "ai.onnx"):
            raise RuleDoesNotApply(f"no rule for {proto.op_type}")
        inputs = tuple(self._values[name] if name else None for name in proto.input)
        shapes = [fact.shape for fact in facts if fact is not None]
        if len(shapes) < len(facts) or any(shape is None for shape in shapes):
            raise RuleDoesNotApply("the shape of its output depends on its inputs' contents")
        node = Node(
            proto.op_type,
            tuple(None if value is None else laid(value) for value in inputs),
            {attribute.name: helper.get_attribute_value(attribute) for attribute in proto.attribute},
            tuple(shape for shape in shapes if shape is not None),
            tuple(fact.dtype for fact in facts if fact is not None),
        )
        made = handler(self._scope, node)
        made = made if isinstance(made, list) else [made]
        if len(made) != len(proto.output) or [_shape(value) for value in made] != list(node.shapes):
            raise RuleDoesNotApply("a rule made another shape")
        return dict(zip(proto.output, made, strict=True))

    def _copy(self, proto: onnx.NodeProto, reason: str) -> None:
        """Copy the node with real inputs."""
        scope = self._scope
        inputs = [scope.whole(self._values[name]) if name else None for name in proto.input]
        outputs = [self._output(name) for name in proto.output]
        copied = onnx.NodeProto()
        copied.CopyFrom(proto)
        del copied.input[:], copied.output[:]
        copied.input.extend(tensor.name if tensor else "" for tensor in inputs)
        copied.output.extend(tensor.name if tensor else "" for tensor in outputs)
        real = [tensor for tensor in inputs if tensor]
        made = {name: tensor for name, tensor in zip(proto.output, outputs, strict=True) if tensor}
        scope.emit.nodes.append(Emitted(copied, tuple(real), tuple(made.values())))
        for name, tensor in made.items():
            opaque = self._facts[name].shape is None
            self._values[name] = Opaque(tensor) if opaque else scope.wrap(tensor)
        varies = any(self._values[name].varies for name in made)
        self._note(_name(proto), proto.op_type, reason if varies else "")

    def _output(self, name: str) -> Tensor | None:
        if not name:
            return None
        fact = self._facts[name]
        return Tensor(self._scope.emit.name("copied"), fact.shape or (), fact.dtype)


def _shape(value: Value) -> Shape | None:
    return None if isinstance(value, Opaque) else value.shape


def _given(name: str, fact: Fact) -> Tensor:
    return Tensor(name, fact.shape or (), fact.dtype)


def _name(proto: onnx.NodeProto) -> str:
    return proto.name or next(iter(proto.output), "")


def _unused_prefix(model: onnx.ModelProto) -> str:
    """Return a prefix that begins no name of the graph."""
    taken = {value.name for value in (*model.graph.input, *model.graph.initializer)}
    taken |= {name for node in model.graph.node for name in node.output}
    prefix = "f/"
    while any(name.startswith(prefix) for name in taken):
        prefix = f"f{prefix}"
    return prefix


def write_model(
    plain: onnx.ModelProto,
    nodes: Sequence[Emitted],
    outputs: Mapping[str, Tensor],
    initializers: Mapping[str, onnx.TensorProto],
) -> onnx.ModelProto:
    """Return a model with the inputs, outputs and versions of `plain`; needed initialisers are taken from it."""
    needed = {tensor.name for tensor in outputs.values()}
    constants = {tensor.name: tensor for tensor in outputs.values() if tensor.value is not None}
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if any(tensor.name in needed for tensor in node.outputs):
            kept.append(node.proto)
            needed |= {tensor.name for tensor in node.inputs}
            constants |= {tensor.name: tensor for tensor in node.inputs if tensor.value is not None}
    named = _named(kept, outputs)
    held = [initializers.get(name) or _initializer(tensor) for name, tensor in constants.items()]
    graph = helper.make_graph(
        [*reversed(kept), *named], plain.graph.name, real_inputs(plain.graph), list(plain.graph.output), held
    )
    model = helper.make_model(graph, opset_imports=plain.opset_import, ir_version=plain.ir_version)
    model.functions.extend(plain.functions)
    return model


def _named(nodes: Sequence[onnx.NodeProto], outputs: Mapping[str, Tensor]) -> list[onnx.NodeProto]:
    """Name the outputs that a node makes; return copying nodes for the others, inputs and constants."""
    made = {name for node in nodes for name in node.output}
    renamed: dict[str, str] = {}
    copies = []
    for name, tensor in outputs.items():
        if tensor.name in made and tensor.name not in renamed:
            renamed[tensor.name] = name
        else:
            source = renamed.get(tensor.name, tensor.name)
            copies.append(helper.make_node("Identity", [source], [name], name))
    for node in nodes:
        for places in (node.input, node.output):
            places[:] = [renamed.get(name, name) for name in places]
    return copies


def _initializer(tensor: Tensor) -> onnx.TensorProto:
    if tensor.value is None:
        raise TypeError(f"{tensor.name} is not a constant")
    # Not ascontiguousarray, which would add an axis to a scalar.
    return numpy_helper.from_array(tensor.value.copy(order="C"), tensor.name)
