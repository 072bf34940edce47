"""Runs a graph as it stands: by ONNX Runtime, or by onnx's reference where that has no kernel for doubles."""

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnxruntime
from onnx.inliner import inline_selected_functions
from onnx.reference import ReferenceEvaluator

from model_export.errors import ExportError

Feeds = Mapping[str, Any]
# The reference refuses these in doubles; of the operators that define them, it runs each.
_DEFINED = [("", name) for name in ("LayerNormalization", "GroupNormalization", "RMSNormalization")]


class Evaluator:
    """One graph, ready to run."""

    def __init__(self, model: onnx.ModelProto, what: str) -> None:
        """`what` names the graph in errors. Raises ExportError when nothing can load it."""
        self._what, self._model = what, model
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        self._failure: ExportError | None = None
        try:
            content = model.SerializeToString()
            self._run: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run
        except Exception as error:  # onnxruntime raises a type of its own for each status, with no common base
            self._fall_back(ExportError(f"{what} cannot be loaded: {error}"))

    def _fall_back(self, failure: ExportError) -> None:
        """To onnx's reference. Raises `failure` where that cannot load the graph either."""
        try:
            expanded = inline_selected_functions(self._model, _DEFINED, inline_schema_functions=True)
            self._run = ReferenceEvaluator(expanded).run
        except Exception as error:  # it has no common base either
            raise failure from error
        self._failure = failure

    def run(self, outputs: Sequence[str] | None, feeds: Feeds) -> list[Any]:
        """The named outputs, or all of the graph. Raises ExportError with the reason."""
        if self._failure is None:
            try:
                return list(self._run(outputs, dict(feeds)))
            except Exception as error:  # as above; some kernels say only now that they do not know doubles
                self._fall_back(ExportError(f"{self._what} cannot be run: {error}"))
        try:
            return list(self._run(outputs, dict(feeds)))
        except Exception as error:  # as above
            raise self._failure or ExportError(f"{self._what} cannot be run: {error}") from error
