"""The runtime: scores by head, what it says of itself, and graphs that do not fit the schema."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from msd.contract.bundle import GOLDENS, RANKER, Bundle
from msd.contract.errors import BundleError
from msd.contract.golden import read_goldens
from msd.contract.instructions import adds_int8_exactly, cpu_instructions
from msd.contract.precision import Figures, Precision, PrecisionRecord, Tried
from msd.contract.tensors import Tensors
from native.bundle_rows import BundleRows
from service.runtimes import choice
from service.runtimes.choice import open_runtime
from service.runtimes.onnxruntime import OnnxRuntime
from service.runtimes.openvino import OpenVinoRuntime
from service.runtimes.runtime import Runtime, RuntimeRefused
from service.settings import Settings, SettingsError
from tests.bundles.factory import example_schema, golden_requests, has_bf16
from tests.bundles.ranker_graph import Recipe, build_ranker
from tests.service.live import live_service, run_msd, wait_until
from tests.service.runtimes.conftest import TOLERANCES, Asked, Make


def test_onnxruntime_reproduces_the_goldens_and_describes_itself(bundle: Bundle) -> None:
    runtime = OnnxRuntime(bundle, "cpu", threads=1)
    rows = BundleRows.of(bundle)
    for golden in read_goldens(bundle.path(GOLDENS)):
        scores = runtime.run(rows.tensors(golden))
        assert list(scores) == ["pctr", "pcvr"]
        np.testing.assert_allclose(scores["pctr"], golden.expected["pctr"], atol=1e-6)

    engine = runtime.engine
    assert (engine.name, engine.provider, engine.threads, engine.precision) == ("onnxruntime", "cpu", 1, "fp32")
    assert engine.key == "onnxruntime-cpu-fp32"
    assert engine.instructions == cpu_instructions()
    assert runtime.warm_up_sizes(500) == (500,)


def test_c_interface_gives_the_bits_of_the_python_module(made_for: Make, asked: Asked) -> None:
    bundle = made_for("fp32")
    runtime, session = OnnxRuntime(bundle, "cpu", threads=1), onnxruntime.InferenceSession(bundle.path(RANKER))
    for tensors, _ in asked:
        (expected,) = session.run(["pctr"], tensors)
        np.testing.assert_array_equal(runtime.run(tensors)["pctr"], expected)
    assert runtime.engine.version == onnxruntime.__version__


@pytest.mark.skipif(sys.platform != "linux", reason="nice is a thread's own on Linux alone")
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_run_aside_has_the_same_scores_and_a_low_priority(name: str, made_for: Make, asked: Asked) -> None:
    bundle, (tensors, _) = made_for("fp32"), asked[0]
    runtime: Runtime = OnnxRuntime(bundle, "cpu", 1) if name == "onnxruntime" else OpenVinoRuntime(bundle, "fp32", 1)
    before, ends = set(os.listdir("/proc/self/task")), threading.Event()

    def niceness() -> set[int]:
        """Of the threads that are new."""
        found = {ours}
        for task in set(os.listdir("/proc/self/task")) - before:
            with contextlib.suppress(OSError):  # it has ended
                found.add(os.getpriority(os.PRIO_PROCESS, int(task)))
        return found

    def run() -> None:
        while not ends.is_set():
            np.testing.assert_array_equal(runtime.run(tensors, is_aside=True)["pctr"], runtime.run(tensors)["pctr"])

    ours = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(run)
        try:
            wait_until(lambda: max(niceness()) >= max(10, ours) or running.done())
        finally:
            ends.set()
        running.result()
        assert thread.submit(os.getpriority, os.PRIO_PROCESS, 0).result() == ours


@pytest.mark.parametrize("is_aside", [False, True])
def test_run_that_fails_says_why_and_the_next_goes_on(is_aside: bool, made_for: Make, asked: Asked) -> None:
    runtime, (tensors, _) = OnnxRuntime(made_for("fp32"), "cpu", threads=1), asked[0]
    name = next(iter(tensors))
    with pytest.raises(RuntimeError, match="Invalid dimensions|invalid dimensions"):
        runtime.run({**tensors, name: tensors[name][:, :0]}, is_aside)
    with pytest.raises(RuntimeError, match=name):
        runtime.run({other: tensor for other, tensor in tensors.items() if other != name})
    with pytest.raises(TypeError, match="no such element type"):
        runtime.run({**tensors, name: tensors[name].astype(np.complex64)})
    assert np.isfinite(runtime.run(tensors)["pctr"]).all()


@pytest.mark.parametrize(
    ("library", "reason"),
    [(Path(__file__), "invalid ELF header|not a mach-o"), (Path("libc.so.6"), "is not ONNX Runtime")],
)
def test_library_that_is_no_runtime_is_refused(
    made_for: Make, library: Path, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.runtimes.onnxruntime._library", lambda: library)
    with pytest.raises(BundleError, match=reason):
        OnnxRuntime(made_for("fp32"), "cpu", threads=1)


def test_int8_is_got_or_refused(made_for: Make, asked: Asked) -> None:
    if not adds_int8_exactly(cpu_instructions()):
        with pytest.raises(RuntimeRefused, match="quantised for CPUs with VNNI"):
            OnnxRuntime(made_for("int8"), "cpu", 1, "int8")
        return
    runtime = OnnxRuntime(made_for("int8"), "cpu", 1, "int8")
    assert (runtime.engine.precision, runtime.engine.key) == ("int8", "onnxruntime-cpu-int8")
    found = [np.abs(runtime.run(tensors)["pctr"] - expected).max() for tensors, expected in asked]
    assert 1e-5 < max(found) < TOLERANCES[runtime.engine.key]


def test_graph_for_bf16_runs_in_fp32(made_for: Make, asked: Asked) -> None:
    runtime = OnnxRuntime(made_for("bf16"), "cpu", threads=1)
    assert runtime.engine.precision == "fp32"
    for tensors, expected in asked:
        np.testing.assert_allclose(runtime.run(tensors)["pctr"], expected, atol=1e-6)


def test_int8_without_vnni_is_refused(made_for: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where sums of products are cut, scores are not those that were judged."""
    monkeypatch.setattr("service.runtimes.onnxruntime.cpu_instructions", lambda: ("avx2",))
    with pytest.raises(RuntimeRefused, match=r"for CPUs with VNNI, but this is cpu \(avx2\).*--precision fp32 or auto"):
        OnnxRuntime(made_for("int8"), "cpu", 1, "int8")
    assert OnnxRuntime(made_for("fp32"), "cpu", threads=1).engine.instructions == ("avx2",)


def test_int8_is_served_or_refused(made_for: Make, tmp_path: Path) -> None:
    folder = made_for("int8").folder
    if not adds_int8_exactly(cpu_instructions()):
        assert "export with --precision fp32" in run_msd("serve", str(folder), "--port", "0").stderr
        return
    with live_service(folder, tmp_path) as running, running.client() as client:
        assert client.get("/v1/model").json()["runtime"]["precision"] == "int8"
        assert running.score(golden_requests()[0]).status_code == 200


def test_every_input_matters() -> None:
    """The test ranker is of use only if no tensor could be wrong unnoticed."""
    model = build_ranker(example_schema(), Recipe())
    used = {name for node in model.graph.node for name in node.input}

    assert {tensor.name for tensor in model.graph.input} <= used


def _rename(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = model.graph.node[0].input[0] = "users"


def _fix_candidates(model: onnx.ModelProto) -> None:
    for tensor in model.graph.input:
        if tensor.name.startswith("item"):
            tensor.type.tensor_type.shape.dim[0].dim_value = 50


def _widen(model: onnx.ModelProto) -> None:
    spec = helper.make_tensor_value_info(model.graph.input[1].name, TensorProto.FLOAT, [1, 1])
    model.graph.input[1].CopyFrom(spec)


def _retype(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64


@pytest.mark.parametrize(
    ("change", "reason", "openvinos"),
    [
        (
            _retype,
            "has type int64, but the schema expects int32",
            "has type i64, but the schema expects int32",
        ),
        (_rename, "has the inputs", "has the inputs"),
        (_widen, "has rows of", "has rows of"),
        (_fix_candidates, "takes 50 candidates; its first axis must be dynamic", "takes 50 candidates"),
        (lambda model: model.graph.ClearField("node"), "onnxruntime cannot load it", "openvino cannot load it"),
        (lambda model: model.graph.output.pop(), "has no output 'pcvr'", "has no output 'pcvr'"),
    ],
)
def test_graph_that_does_not_fit_is_refused(
    bundle: Bundle, tmp_path: Path, change: Callable[[onnx.ModelProto], object], reason: str, openvinos: str
) -> None:
    model = build_ranker(bundle.schema, Recipe())
    change(model)
    (tmp_path / RANKER).write_bytes(model.SerializeToString())
    misfit = Bundle(tmp_path, bundle.manifest)

    with pytest.raises(BundleError, match=reason):
        OnnxRuntime(misfit, "cpu", threads=1)
    with pytest.raises(BundleError, match=openvinos):
        OpenVinoRuntime(misfit, "fp32", threads=1)


@pytest.mark.parametrize(
    ("precision", "settings", "key"),
    [
        ("fp32", {}, "onnxruntime-cpu-fp32"),
        *[("bf16", {}, "openvino-cpu-bf16")] * has_bf16(),
        ("fp32", {"runtime": "openvino", "threads": 2}, "openvino-cpu-fp32"),
        ("bf16", {"runtime": "onnxruntime"}, "onnxruntime-cpu-fp32"),
        ("int8", {"runtime": "openvino"}, "openvino-cpu-fp32"),
    ],
)
def test_precision_that_was_asked_for_is_served_unless_a_setting_says_otherwise(
    made_for: Make, precision: Precision, settings: dict[str, object], key: str
) -> None:
    bundle = made_for(precision)
    given = Settings.model_validate({"bundle": bundle.folder, **settings})
    engine = open_runtime(bundle, given).engine
    assert (engine.key, engine.threads) == (key, given.threads)


def _passed(bundle: Bundle, *precisions: Precision) -> Bundle:
    """The bundle as of `auto`, with the precisions that passed."""
    figures = Figures(auc=0.7, logloss=0.5, ece=0.01, predicted_over_observed=1.0, microseconds=100.0)
    tried = dict.fromkeys(precisions, Tried(figures=figures)) | {"bf16": Tried(refused="AUC may be lower")}
    record = PrecisionRecord(asked="auto", chosen="fp32", candidates=50, tried=tried)
    return Bundle(bundle.folder, bundle.manifest.model_copy(update={"precision": record}))


@pytest.mark.parametrize("quick", ["fp32", "int8"])
def test_fastest_here_of_the_precisions_that_passed_is_served(
    quick: Precision, made_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, given = _passed(made_for("int8"), "fp32", "int8"), Settings(bundle=made_for("int8").folder)
    seen: list[set[Precision]] = []

    def measured(runs: Mapping[Precision, object], tensors: Tensors) -> dict[Precision, float]:
        assert len(tensors["item_categorical"]) == 50
        seen.append(set(runs))
        return {precision: 1.0 if precision == quick else 2.0 for precision in runs}

    monkeypatch.setattr(choice, "median_microseconds", measured)
    has_int8 = adds_int8_exactly(cpu_instructions())
    assert open_runtime(bundle, given).engine.precision == (quick if has_int8 else "fp32")
    assert seen == [{"fp32", "int8"}] * has_int8
    assert open_runtime(bundle, given, "fp32").engine.precision == "fp32"


def test_precision_that_this_cpu_lacks_is_left_out(made_for: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.runtimes.onnxruntime.cpu_instructions", lambda: ("avx2",))
    bundle = _passed(made_for("int8"), "fp32", "int8")
    assert open_runtime(bundle, Settings(bundle=bundle.folder)).engine.key == "onnxruntime-cpu-fp32"


def test_openvino_refuses_cuda() -> None:
    environ = {"MSD_BUNDLE": "b", "MSD_RUNTIME": "openvino", "MSD_PROVIDER": "cuda"}
    with pytest.raises(SettingsError, match="MSD_RUNTIME=openvino does not support MSD_PROVIDER=cuda"):
        Settings.from_environ(environ)
