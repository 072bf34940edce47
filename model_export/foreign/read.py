"""Reader of third-party ONNX files: the graph is complete, safe to run and free of NaN, or the error says why not.

Knows neither a schema nor the inputs' meaning.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, version_converter
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_model, uses_external_data
from onnx.inliner import inline_local_functions

from model_export.errors import ExportError

# Domains with operators in ONNX Runtime; others need the author's library.
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
_OLDEST_OPSET = 9
OPSET = 18
_MOST_NODES = 1_000_000
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)


def read_model(path: Path) -> ModelProto:
    """Return the model with all weights in it, functions inlined, in opset 18 or later.

    Raises ExportError for an invalid or truncated ONNX file, an opset or operator that cannot run, weights outside its
    folder, and weights with NaN.
    """
    if not path.is_file():
        raise ExportError(f"{path}: no such file")
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError:
        raise ExportError(f"{path}: not an ONNX file, or truncated") from None
    if not _is_text(model):
        raise ExportError(f"{path}: is not valid ONNX: a name is not in UTF-8")
    if not model.graph.node:
        raise ExportError(f"{path}: has a graph without nodes; it is not an ONNX file, or truncated")
    _check_opset(path, model)
    _load_external(path, model)
    try:
        _check_functions(path, model)
        model = inline_local_functions(model)
        _check_operators(path, model)
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"{path}: is not valid ONNX: {str(error).strip().splitlines()[0]}") from None
    except RecursionError:
        raise ExportError(f"{path}: its functions are nested too deeply to be inlined") from None
    _check_weights(path, model)
    return _in_opset(path, model)


def _is_text(message: Message) -> bool:
    """Return whether all texts within are text: others are read as bytes."""
    for field, value in message.ListFields():
        parts = [value] if isinstance(value, str | bytes | Message) else value
        if field.message_type and not all(map(_is_text, parts)):
            return False
        if field.type == FieldDescriptor.TYPE_STRING and not all(isinstance(part, str) for part in parts):
            return False
    return True


def _check_opset(path: Path, model: ModelProto) -> None:
    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and not _OLDEST_OPSET <= opset.version <= newest:
            raise ExportError(
                f"{path}: uses opset {opset.version}; {_OLDEST_OPSET} to {newest} can be run. Export it again with one "
                "of these"
            )


def _in_opset(path: Path, model: ModelProto) -> ModelProto:
    """Return the graph in the opset that the pass reads, converted if it is older."""
    own = next((opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")), None)
    if own is None:  # trees alone, of another domain
        model.opset_import.append(helper.make_opsetid("", OPSET))
    if own is None or own >= OPSET:
        return model
    try:
        return version_converter.convert_version(model, OPSET)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(
            f"{path}: uses opset {own}, and onnx cannot bring it to {OPSET} ({reason}); export it with opset {OPSET} "
            "or later"
        ) from None


def _load_external(path: Path, model: ModelProto) -> None:
    """Load weights from files of their own, which must lie beside the graph or below."""
    folder = path.parent.resolve()
    for tensor in _tensors(model.graph):
        if not uses_external_data(tensor):
            continue
        try:
            location = ExternalDataInfo(tensor).location
            found = (folder / location).resolve()
            is_there = found.is_file()
        except (OSError, RuntimeError, ValueError) as error:
            raise ExportError(f"{path}: where the weight {tensor.name!r} lies cannot be read: {error}") from None
        if Path(location).is_absolute() or not found.is_relative_to(folder):
            raise ExportError(
                f"{path}: the weight {tensor.name!r} is said to be in {location!r}, outside the graph's folder; put "
                "all in one folder and export again"
            )
        if not is_there:
            raise ExportError(f"{path}: the weight {tensor.name!r} is in {location!r}, which is missing beside it")
    try:
        load_external_data_for_model(model, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ExportError(f"{path}: its weights cannot be read: {error}") from None


def _check_functions(path: Path, model: ModelProto) -> None:
    """Refuse functions that call others so often that inlining them would not end."""
    bodies = {(function.domain, function.name): function.node for function in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size_of(node: NodeProto) -> int:
        key = node.domain, node.op_type
        if key not in bodies:
            return 1
        if key not in sizes:
            sizes[key] = 0  # of one that calls itself, which onnx refuses
            sizes[key] = sum(map(size_of, bodies[key]))
        return sizes[key]

    if (size := sum(map(size_of, _nodes(model.graph)))) > _MOST_NODES:
        raise ExportError(f"{path}: has {size} nodes once its functions are inlined; the limit is {_MOST_NODES}")


def _check_operators(path: Path, model: ModelProto) -> None:
    for node in _nodes(model.graph):
        if node.domain not in _DOMAINS:
            raise ExportError(
                f"{path}: the node {_name(node)} is of {node.domain}.{node.op_type}, which onnxruntime does not have"
            )


def _check_weights(path: Path, model: ModelProto) -> None:
    for tensor in _tensors(model.graph):
        if tensor.data_type in _FLOATS and np.isnan(numpy_helper.to_array(tensor)).any():
            raise ExportError(f"{path}: the weight {tensor.name!r} holds NaN; training went wrong before the export")


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield all nodes, including those in the bodies of If, Loop and Scan."""
    for node in graph.node:
        yield node
        for body in _bodies(node):
            yield from _nodes(body)


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Yield all weights: initialisers and constants."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                if not attribute.t.name:
                    attribute.t.name = _name(node)
                yield attribute.t
        for body in _bodies(node):
            yield from _tensors(body)


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _name(node: NodeProto) -> str:
    return node.name or next(iter(node.output), node.op_type)
