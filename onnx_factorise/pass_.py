"""The factorising pass: from a plain graph and its item axis to the same function with shared work done once.

The pass is a partial evaluation. Nodes are taken in order. Their outputs stay symbolic values until an operator needs a
tensor. An operator without a rule gets real inputs and is copied. Each family of operators has its own file of rules.
Splitting products over concatenated sides is an idea of MaRI (arXiv 2602.23105).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_factorise import axes, elementwise, layout, matmul
from onnx_factorise.emit import Emitter, Tensor
from onnx_factorise.facts import Fact, find_facts, real_inputs
from onnx_factorise.report import NodeReport, Report
from onnx_factorise.scope import Node, Scope, laid
from onnx_factorise.shapes import RuleDoesNotApply
from onnx_factorise.values import Affine, Value

_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
_FAMILIES = (elementwise, layout, matmul, axes)


@dataclass(frozen=True)
class Factorised:
    """The factorised graph and its report."""

    model: onnx.ModelProto
    report: Report


def factorise(model: onnx.ModelProto, axis: str) -> Factorised:
    """Return the same function of the same inputs, with shared work done once. `axis`: the name of the item axis, the
    dynamic first axis of item inputs; what has no such axis is shared.

    A graph that cannot be split is left whole. Raises CannotRun for a graph that does not run.
    """
    try:
        if any(attribute.type in _GRAPHS for node in model.graph.node for attribute in node.attribute):
            raise RuleDoesNotApply("it has subgraphs")
        return _Pass(model, find_facts(model, axis)).run()
    except RuleDoesNotApply as reason:
        whole = NodeReport(model.graph.name, "graph", left=f"left as it was: {reason}")
        count = len(model.graph.node)
        return Factorised(model, Report((whole,), count, count))


class _Pass:
    """One run over one graph."""

    def __init__(self, model: onnx.ModelProto, facts: Mapping[str, Fact]) -> None:
        self._model, self._facts = model, facts
        self._handlers = {kind: handler for family in _FAMILIES for kind, handler in family.HANDLERS.items()}
        inputs = {value.name: self._tensor(value.name, facts[value.name]) for value in real_inputs(model.graph)}
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
        made = self._written(outputs)
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
        try:
            self._values |= {name: self._constant(self._facts[name]) for name in proto.output if name}
        except RuleDoesNotApply:
            return False
        return True

    def _constant(self, fact: Fact) -> Affine:
        emit = self._scope.emit
        if fact.shape is not None and fact.value is not None:
            return self._scope.wrap(emit.constant(fact.value), fact.shape)
        if fact.shape is None or fact.lengths is None:
            raise RuleDoesNotApply("it depends on the inputs' contents")
        lengths = emit.lengths(fact.lengths)
        made = lengths if lengths.dtype == fact.dtype else emit.op("Cast", [lengths], lengths.shape, fact.dtype)
        return self._scope.wrap(emit.reshape(made, fact.shape), fact.shape)

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
        shapes = tuple(fact.shape for fact in facts if fact is not None and fact.shape is not None)
        if len(shapes) < len(facts):
            raise RuleDoesNotApply("the shape of its output depends on its inputs' contents")
        node = Node(
            proto.op_type,
            tuple(None if value is None else laid(value) for value in inputs),
            {attribute.name: helper.get_attribute_value(attribute) for attribute in proto.attribute},
            shapes,
            tuple(fact.dtype for fact in facts if fact is not None),
        )
        made = handler(self._scope, node)
        made = made if isinstance(made, list) else [made]
        if len(made) != len(proto.output) or [laid(value).shape for value in made] != list(node.shapes):
            raise RuleDoesNotApply("a rule made another shape")
        return dict(zip(proto.output, made, strict=True))

    def _copy(self, proto: onnx.NodeProto, reason: str) -> None:
        """Copy the node with real inputs."""
        scope = self._scope
        inputs = [scope.whole(self._values[name]) if name else None for name in proto.input]
        outputs = {name: self._tensor(scope.emit.name("copied"), self._facts[name]) for name in proto.output if name}
        copied = onnx.NodeProto()
        copied.CopyFrom(proto)
        del copied.input[:], copied.output[:]
        copied.input.extend(tensor.name if tensor else "" for tensor in inputs)
        copied.output.extend(outputs[name].name if name else "" for name in proto.output)
        scope.emit.nodes.append(copied)
        varies = False
        for name, tensor in outputs.items():
            is_known = self._facts[name].shape is not None
            self._values[name] = scope.wrap(tensor) if is_known else tensor
            varies = varies or tensor.varies or not is_known
        self._note(_name(proto), proto.op_type, reason if varies else "")

    def _written(self, outputs: Mapping[str, Tensor]) -> onnx.ModelProto:
        """Return a model with the inputs, outputs and versions of the plain one; initialisers are taken from it."""
        emit, plain = self._scope.emit, self._model
        copies = [helper.make_node("Identity", [tensor.name], [name]) for name, tensor in outputs.items()]
        kept: list[onnx.NodeProto] = []
        needed = {tensor.name for tensor in outputs.values()}
        for node in reversed(emit.nodes):
            if not needed.isdisjoint(node.output):
                kept.append(node)
                needed |= set(node.input) - {""}  # an omitted input
        # Not ascontiguousarray, which would add an axis to a scalar.
        held = [
            self._initializers.get(name) or numpy_helper.from_array(np.array(tensor.value, order="C"), name)
            for name, tensor in emit.constants.items()
            if name in needed
        ]
        inputs, results = real_inputs(plain.graph), list(plain.graph.output)
        graph = helper.make_graph([*reversed(kept), *copies], plain.graph.name, inputs, results, held)
        model = helper.make_model(graph, opset_imports=plain.opset_import, ir_version=plain.ir_version)
        model.functions.extend(plain.functions)
        return model

    @staticmethod
    def _tensor(name: str, fact: Fact) -> Tensor:
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
