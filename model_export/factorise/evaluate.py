"""Runs a graph as it stands: by ONNX Runtime, or by onnx's reference where that has no kernel for doubles."""

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator

from model_export.errors import ExportError

Feeds = Mapping[str, Any]


class Evaluator:
    """One graph, ready to run."""

    def __init__(self, model: onnx.ModelProto, what: str) -> None:
        """`what` names the graph in errors. Raises ExportError when nothing can load it."""
        self._what = what
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        self._run = self._open(model, options)

    def _open(self, model: onnx.ModelProto, options: Any) -> Any:  # noqa: ANN401 - onnxruntime has no types
        try:
            content = model.SerializeToString()
            return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run
        except Exception as error:  # onnxruntime raises a type of its own for each status, with no common base
            try:
                return ReferenceEvaluator(model).run
            except Exception:  # nor does the reference
                raise ExportError(f"{self._what} cannot be loaded: {error}") from error

    def run(self, outputs: Sequence[str] | None, feeds: Feeds) -> list[Any]:
        """The named outputs, or all of the graph. Raises ExportError with the reason."""
        try:
            return list(self._run(outputs, dict(feeds)))
        except Exception as error:  # as above
            raise ExportError(f"{self._what} cannot be run: {error}") from error
