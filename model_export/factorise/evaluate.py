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
        self._what, self._model = what, model
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        try:
            content = model.SerializeToString()
            self._run: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run
        except Exception as error:  # onnxruntime raises a type of its own for each status, with no common base
            self._run = self._reference(f"{what} cannot be loaded: {error}", error)
        self._is_reference = isinstance(getattr(self._run, "__self__", None), ReferenceEvaluator)

    def _reference(self, failure: str, error: Exception) -> Any:  # noqa: ANN401 - as it types itself
        try:
            return ReferenceEvaluator(self._model).run
        except Exception:  # it has no common base either
            raise ExportError(failure) from error

    def run(self, outputs: Sequence[str] | None, feeds: Feeds) -> list[Any]:
        """The named outputs, or all of the graph. Raises ExportError with the reason."""
        try:
            return list(self._run(outputs, dict(feeds)))
        except Exception as error:  # as above
            failure = f"{self._what} cannot be run: {error}"
            if self._is_reference:
                raise ExportError(failure) from error
            # Some kernels say only now that they do not know doubles.
            run = self._reference(failure, error)
        try:
            found = list(run(outputs, dict(feeds)))
        except Exception as second:  # as above
            raise ExportError(failure) from second
        self._run, self._is_reference = run, True
        return found
