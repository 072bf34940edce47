"""CUDA: refused where it is not, captured where that can be; what needs the card itself is marked `gpu`."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from structlog.testing import capture_logs

from msd.contract.assemble import Tensors
from msd.contract.bundle import RANKER, Bundle
from msd.contract.errors import BundleError
from service.runtimes.choice import open_runtime
from service.runtimes.cuda import BoundRuntime, captured_or_not, card_name, open_cuda, try_capture
from service.runtimes.onnxruntime import OnnxRuntime, engine_of, open_session
from service.runtimes.runtime import Runtime, RuntimeRefused, Scores
from service.settings import Settings
from tests.service.runtimes.conftest import Asked, Make

needs_card = pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers() or not card_name(),
    reason="needs an NVIDIA GPU",
)


def _on_cpu(bundle: Bundle) -> BoundRuntime:
    session = open_session(bundle.path(RANKER), "cpu", 1)
    return BoundRuntime(bundle, session, "cpu", engine_of(bundle, session, "cpu"))


def _branching(bundle: Bundle, folder: Path) -> Bundle:
    """The same scores, by way of a branch that depends on them, which no CUDA graph can have."""
    model = onnx.load(bundle.path(RANKER))
    graph = model.graph
    last = next(node for node in graph.node if "pctr" in node.output)
    last.output[0] = "raw"

    def branch(name: str, kind: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"])
        return helper.make_graph([helper.make_node(kind, ["raw"], [name])], name, [], [output])

    graph.initializer.append(numpy_helper.from_array(np.array(2, np.float32), "two"))
    graph.node.extend(
        [
            helper.make_node("ReduceMax", ["raw"], ["greatest"], keepdims=0),
            helper.make_node("Less", ["greatest", "two"], ["is_probability"]),
            helper.make_node(
                "If",
                ["is_probability"],
                ["pctr"],
                then_branch=branch("kept", "Identity"),
                else_branch=branch("n", "Neg"),
            ),
        ]
    )
    onnx.save(model, folder / RANKER)
    return Bundle(folder, bundle.manifest)


class Failing:
    """A runtime whose runs fail."""

    def run(self, tensors: Tensors) -> Scores:
        raise RuntimeError("operation not permitted when stream is capturing")


class Driver:
    """What of a CUDA driver's library is asked for a card's name."""

    def __init__(self, broken: bool = False) -> None:
        self._broken = broken

    def cuInit(self, flags: int) -> int:
        return int(self._broken)

    def cuDeviceGet(self, card: object, number: int) -> int:
        return 0

    def cuDeviceGetName(self, name: "ctypes.Array[ctypes.c_char]", size: int, card: ctypes.c_int) -> int:
        name.value = b"NVIDIA of tests"
        return 0


def _opener(bundle: Bundle, fails: set[bool], asked: list[bool]) -> Callable[[bool], Runtime]:
    def open_(capture: bool) -> Runtime:
        asked.append(capture)
        if capture in fails:
            raise BundleError(f"no capture: {capture}")
        return _on_cpu(bundle)

    return open_


def test_without_a_card_cuda_is_refused(made_for: Make) -> None:
    if card_name():
        return
    bundle = made_for("fp32")
    with pytest.raises(RuntimeRefused, match=r"provider 'cuda' is unavailable.*msd-ctr\[gpu\].*MSD_PROVIDER=cpu"):
        open_cuda(bundle, threads=1)
    with pytest.raises(RuntimeRefused, match=r"msd-ctr\[gpu\]"):
        open_runtime(bundle, Settings(bundle=bundle.folder, provider="cuda"))


def test_where_capture_is_to_be_had_nothing_else_is_tried(made_for: Make) -> None:
    asked: list[bool] = []
    with capture_logs() as said:
        captured_or_not(_opener(made_for("fp32"), set(), asked))
    assert asked == [True]
    assert not said


def test_where_it_is_not_runs_go_on_without_and_the_log_says_so(made_for: Make) -> None:
    asked: list[bool] = []
    with capture_logs() as said:
        captured_or_not(_opener(made_for("fp32"), {True}, asked))
    assert asked == [True, False]
    assert [(one["event"], one["reason"]) for one in said] == [("cuda_graphs_refused", "no capture: True")]


def test_a_graph_that_cannot_be_opened_at_all_is_refused(made_for: Make) -> None:
    with capture_logs() as said, pytest.raises(BundleError, match="no capture: False"):
        captured_or_not(_opener(made_for("fp32"), {True, False}, []))
    assert not said


def test_capture_is_tried_before_anyone_relies_on_it(made_for: Make) -> None:
    bundle = made_for("fp32")
    try_capture(_on_cpu(bundle), bundle)
    with pytest.raises(BundleError, match=r"ranker\.onnx: a run of it cannot be captured: operation not permitted"):
        try_capture(Failing(), bundle)  # type: ignore[arg-type]


def test_the_driver_names_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert card_name() == "NVIDIA of tests"
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(broken=True))
    assert card_name() == ""

    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert card_name() == ""


def test_a_branch_keeps_the_scores(made_for: Make, asked: Asked, tmp_path: Path) -> None:
    """The graph of the test below, on a CPU."""
    runtime = _on_cpu(_branching(made_for("fp32"), tmp_path))
    for tensors, expected in asked:
        np.testing.assert_allclose(runtime.run(tensors)["pctr"], expected, atol=1e-6)


@pytest.mark.gpu
@needs_card
def test_on_a_card_runs_are_captured_and_score_as_uncaptured_ones(made_for: Make, asked: Asked) -> None:
    bundle = made_for("fp32")
    runtime, plain = open_cuda(bundle, threads=1), OnnxRuntime(bundle, "cuda", threads=1)
    assert (runtime.engine.key, runtime.engine.instructions) == ("onnxruntime-cuda-fp32", ())
    assert runtime.engine.graphs
    assert runtime.engine.device
    for _ in range(3):  # the first run of a size is captured, the others are replayed
        for tensors, expected in asked:
            found = runtime.run(tensors)
            np.testing.assert_allclose(found["pctr"], expected, atol=1e-5)
            np.testing.assert_allclose(found["pcvr"], plain.run(tensors)["pcvr"], atol=1e-6)


@pytest.mark.gpu
@needs_card
def test_on_a_card_what_cannot_be_captured_runs_uncaptured(made_for: Make, asked: Asked, tmp_path: Path) -> None:
    with capture_logs() as said:
        runtime = open_cuda(_branching(made_for("fp32"), tmp_path), threads=1)
    assert not runtime.engine.graphs
    assert [one["event"] for one in said] == ["cuda_graphs_refused"]
    for tensors, expected in asked:
        np.testing.assert_allclose(runtime.run(tensors)["pctr"], expected, atol=1e-5)


@pytest.mark.gpu
@needs_card
def test_on_a_card_int8_is_refused(made_for: Make) -> None:
    with pytest.raises(RuntimeRefused, match="quantised for CPUs with VNNI, but this is cuda"):
        open_cuda(made_for("int8"), threads=1)
