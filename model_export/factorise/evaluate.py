"""Evaluation of a graph as it is, by ONNX Runtime, or by onnx's reference if that has no kernel for doubles."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from model_export.errors import CannotRun

Feeds = Mapping[str, Any]


class LayerNormalization(OpRun):
    """LayerNormalization in its input's precision; the reference's own has single precision only."""

    def _run(
        self,
        x: NDArray[Any],
        scale: NDArray[Any],
        bias: NDArray[Any] | None = None,
        axis: int = -1,
        epsilon: float = 1e-5,
        stash_type: int = 1,
    ) -> tuple[NDArray[Any], ...]:
        axes = tuple(range(axis % x.ndim, x.ndim))
        mean = x.mean(axes, keepdims=True)
        one_over = 1.0 / np.sqrt(np.square(x - mean).mean(axes, keepdims=True) + epsilon)
        normed = (x - mean) * one_over * scale
        return (normed if bias is None else normed + bias).astype(x.dtype), mean, one_over


class Evaluator:
    """One graph, ready to run."""

    def __init__(self, model: onnx.ModelProto, what: str) -> None:
        """`what` names the graph in errors. Raises CannotRun if nothing can load it."""
        self._what, self._model = what, model
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        self._failure: CannotRun | None = None
        try:
            content = model.SerializeToString()
            self._run: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run
        except Exception as error:  # onnxruntime raises a type of its own for each status, with no common base
            self._fall_back(CannotRun(f"{what} cannot be loaded: {error}"))

    def _fall_back(self, failure: CannotRun) -> None:
        """Fall back to onnx's reference. Raises `failure` if that cannot load the graph either."""
        try:
            self._run = ReferenceEvaluator(self._model, new_ops=[LayerNormalization]).run
        except Exception as error:  # it has no common base either
            raise failure from error
        self._failure = failure

    def run(self, outputs: Sequence[str] | None, feeds: Feeds) -> list[Any]:
        """Return the named outputs, or all of the graph's. Raises CannotRun with the reason."""
        if self._failure is None:
            try:
                return list(self._run(outputs, dict(feeds)))
            except Exception as error:  # as above; some kernels reject doubles only now
                self._fall_back(CannotRun(f"{self._what} cannot be run: {error}"))
        try:
            return list(self._run(outputs, dict(feeds)))
        except Exception as error:  # as above
            raise self._failure or CannotRun(f"{self._what} cannot be run: {error}") from error
