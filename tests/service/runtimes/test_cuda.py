"""CUDA: refused where it is not, captured where that can be; what needs the card itself is marked `gpu`."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from structlog.testing import capture_logs

from msd.contract.assemble import Tensors
from msd.contract.bundle import RANKER, Bundle
from msd.contract.errors import BundleError
from msd.contract.openvino import padded_size
from service.runtimes.choice import open_runtime
from service.runtimes.cuda import (
    BoundRuntime,
    captured_or_not,
    card_name,
    open_cuda,
    padded_sizes,
    try_capture,
)
from service.runtimes.onnxruntime import OnnxRuntime, engine_of, open_session
from service.runtimes.runtime import Runtime, RuntimeRefused, Scores
from service.settings import Settings
from tests.service.runtimes.conftest import Asked, Make

needs_card = pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers() or not card_name(),
    reason="needs an NVIDIA GPU",
)


def _bound(bundle: Bundle, session: Any = None) -> BoundRuntime:  # noqa: ANN401 - onnxruntime has no types
    session = session or open_session(bundle.path(RANKER), "cpu", 1)
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
    branches = {"then_branch": branch("kept", "Identity"), "else_branch": branch("n", "Neg")}
    graph.node.extend(
        [
            helper.make_node("ReduceMax", ["raw"], ["greatest"], keepdims=0),
            helper.make_node("Less", ["greatest", "two"], ["is_probability"]),
            helper.make_node("If", ["is_probability"], ["pctr"], **branches),
        ]
    )
    onnx.save(model, folder / RANKER)
    return Bundle(folder, bundle.manifest)


class Failing:
    def run(self, tensors: Tensors) -> Scores:
        raise RuntimeError("operation not permitted when stream is capturing")


def test_without_a_card_cuda_is_refused(made_for: Make) -> None:
    if card_name():
        return
    bundle = made_for("fp32")
    with pytest.raises(RuntimeRefused, match=r"provider 'cuda' is unavailable.*msd-ctr\[gpu\].*MSD_PROVIDER=cpu"):
        open_cuda(bundle, threads=1)
    with pytest.raises(RuntimeRefused, match=r"msd-ctr\[gpu\]"):
        open_runtime(bundle, Settings(bundle=bundle.folder, provider="cuda"))


@pytest.mark.parametrize(
    ("fails", "tried", "refused"),
    [(set(), [True], []), ({True}, [True, False], ["no capture: True"]), ({True, False}, [True, False], [])],
    ids=["captured", "uncaptured", "not at all"],
)
def test_runs_go_uncaptured_if_capture_fails(
    made_for: Make, fails: set[bool], tried: list[bool], refused: list[str]
) -> None:
    attempts: list[bool] = []

    def open_(capture: bool) -> Runtime:
        attempts.append(capture)
        if capture in fails:
            raise BundleError(f"no capture: {capture}")
        return _bound(made_for("fp32"))

    with (
        capture_logs() as logs,
        pytest.raises(BundleError, match="no capture: False") if False in fails else nullcontext(),
    ):
        captured_or_not(open_)
    assert attempts == tried
    assert [(line["event"], line["reason"]) for line in logs] == [("cuda_graphs_refused", one) for one in refused]


def test_capture_is_tried_before_anyone_relies_on_it(made_for: Make) -> None:
    bundle = made_for("fp32")
    try_capture(_bound(bundle), bundle)
    with pytest.raises(BundleError, match=r"ranker\.onnx: a run of it cannot be captured: operation not permitted"):
        try_capture(Failing(), bundle)  # type: ignore[arg-type]


def test_branch_keeps_the_scores(made_for: Make, asked: Asked, tmp_path: Path) -> None:
    """The graph of the test below, on a CPU."""
    runtime = _bound(_branching(made_for("fp32"), tmp_path))
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
def test_on_a_card_a_branching_graph_runs_uncaptured(made_for: Make, asked: Asked, tmp_path: Path) -> None:
    with capture_logs() as lines:
        runtime = open_cuda(_branching(made_for("fp32"), tmp_path), threads=1)
    assert not runtime.engine.graphs
    assert [line["event"] for line in lines] == ["cuda_graphs_refused"]
    for tensors, expected in asked:
        np.testing.assert_allclose(runtime.run(tensors)["pctr"], expected, atol=1e-5)


@pytest.mark.gpu
@needs_card
def test_on_a_card_int8_is_refused(made_for: Make) -> None:
    with pytest.raises(RuntimeRefused, match="quantised for CPUs with VNNI, but this is cuda"):
        open_cuda(made_for("int8"), threads=1)


class Watched:
    """A session that notes who runs it, on what."""

    def __init__(self, session: Any) -> None:  # noqa: ANN401 - onnxruntime has no types
        self._session = session
        self.threads: set[int] = set()
        self.addresses: dict[str, set[int]] = {}

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:  # noqa: ANN401
        self.threads.add(threading.get_ident())
        graph = options.get_run_config_entry("gpu_graph_id")
        self.addresses.setdefault(graph, set()).add(binding.get_outputs()[0].data_ptr())
        self._session.run_with_iobinding(binding, options)


@pytest.fixture(scope="module")
def session(made_for: Make) -> Watched:
    return Watched(open_session(made_for("fp32").path(RANKER), "cpu", 1))


@pytest.fixture(scope="module")
def bound(made_for: Make, session: Watched) -> BoundRuntime:
    return _bound(made_for("fp32"), session)


@pytest.fixture(scope="module")
def plain(made_for: Make) -> OnnxRuntime:
    return OnnxRuntime(made_for("fp32"), "cpu", threads=1)


@pytest.fixture(scope="module")
def tensors(asked: Asked) -> Tensors:
    return max(asked, key=lambda one: len(one[1]))[0]


def _with(tensors: Tensors, count: int, first: int = 0) -> Tensors:
    """So many of the candidates, again and again, from one of them on."""
    places = first + np.arange(count)
    return {name: value[places % len(value)] if name.startswith("item") else value for name, value in tensors.items()}


def _same(one: Runtime, other: Runtime, tensors: Tensors) -> None:
    found, expected = one.run(tensors), other.run(tensors)
    assert found.keys() == expected.keys()
    for head, scores in expected.items():
        assert found[head].shape == scores.shape
        np.testing.assert_allclose(found[head], scores, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 33, 128, 200, 2_000, 2_049])
def test_any_number_of_candidates_scores_as_in_a_plain_session(
    bound: BoundRuntime, plain: OnnxRuntime, tensors: Tensors, count: int
) -> None:
    given = _with(tensors, count)
    _same(bound, plain, given)
    if padded_size(count) == count:
        np.testing.assert_array_equal(bound.run(given)["pctr"], plain.run(given)["pctr"])


def test_earlier_buffers_do_not_affect_scores(bound: BoundRuntime, plain: OnnxRuntime, tensors: Tensors) -> None:
    earlier = bound.run(_with(tensors, 40))["pctr"]
    kept = earlier.copy()
    assert padded_size(37) == 40

    _same(bound, plain, _with(tensors, 37, first=5))
    np.testing.assert_array_equal(earlier, kept)
    earlier[:] = 0.0
    _same(bound, plain, _with(tensors, 40))


def test_each_size_keeps_its_place(bound: BoundRuntime, session: Watched, tensors: Tensors) -> None:
    for count in (50, 51, 100, 49, 56, 52, 90):
        bound.run(_with(tensors, count, first=count))

    assert session.addresses.keys() >= {"56", "112", "96"}
    assert all(len(addresses) == 1 for addresses in session.addresses.values())


def test_many_at_once_get_their_own_scores_from_one_thread(
    bound: BoundRuntime, session: Watched, plain: OnnxRuntime, tensors: Tensors
) -> None:
    requests = [_with(tensors, 1 + 7 * number % 60, first=number) for number in range(120)]
    with ThreadPoolExecutor(6) as clients:
        found = list(clients.map(bound.run, requests))

    for scores, request in zip(found, requests, strict=True):
        np.testing.assert_allclose(scores["pctr"], plain.run(request)["pctr"], atol=1e-6)
    assert len(session.threads) == 1
    assert threading.get_ident() not in session.threads


def test_failed_run_raises_and_the_next_one_runs(bound: BoundRuntime, plain: OnnxRuntime, tensors: Tensors) -> None:
    user = next(name for name in tensors if name.startswith("user"))
    with pytest.raises(RuntimeError, match="does not match"):
        bound.run({**tensors, user: np.concatenate([tensors[user]] * 2)})
    _same(bound, plain, tensors)


@given(st.integers(1, 100_000))
def test_size_wastes_a_fifth_at_most(count: int) -> None:
    size = padded_size(count)

    assert count <= size
    assert (size - count) * 5 <= size
    assert padded_size(size) == size


@pytest.mark.parametrize("most", [1, 2, 9, 200, 2_000])
def test_few_sizes_are_warmed_up(most: int, bound: BoundRuntime) -> None:
    sizes = list(padded_sizes(most))

    assert sizes == sorted({padded_size(count) for count in range(1, most + 1)})
    assert len(sizes) <= 40
    assert list(bound.warm_up_sizes(most)) == sizes
