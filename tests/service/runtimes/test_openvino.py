"""OpenVINO: the same file, the same scores, in the precision that was asked for or not at all."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.contract.bundle import RANKER, Bundle
from msd.contract.instructions import cpu_instructions
from msd.contract.openvino import OpenVinoPrecision, padded_size
from msd.contract.precision import PrecisionRecord
from msd.contract.tensors import Tensors
from service.runtimes.choice import expected_candidates
from service.runtimes.openvino import OpenVinoRuntime, check_bf16
from service.runtimes.runtime import RuntimeRefused
from tests.bundles.factory import has_bf16
from tests.bundles.ranker_graph import Recipe, build_ranker
from tests.service.live import ROOT, live_service, run_msd
from tests.service.runtimes.conftest import TOLERANCES, Asked, Make


def _resized(tensors: Tensors, count: int) -> Tensors:
    return {
        name: np.resize(tensor, (count, *tensor.shape[1:])) if name.startswith("item") else tensor
        for name, tensor in tensors.items()
    }


def test_openvino_reproduces_the_goldens_and_describes_itself(made_for: Make, asked: Asked) -> None:
    runtime = OpenVinoRuntime(made_for("fp32"), "fp32", threads=1)
    for tensors, expected in asked:
        scores = runtime.run(tensors)
        assert list(scores) == ["pctr", "pcvr"]
        np.testing.assert_allclose(scores["pctr"], expected, atol=1e-5)

    engine = runtime.engine
    assert (engine.provider, engine.threads, engine.precision, engine.key) == ("cpu", 1, "fp32", "openvino-cpu-fp32")
    assert list(runtime.warm_up_sizes(200)) == sorted({padded_size(count) for count in range(1, 201)})
    assert (engine.version, engine.instructions) == (openvino.__version__, cpu_instructions())


_FREED_BY_ANOTHER_THREAD = """
import os, signal, sys, threading
from pathlib import Path
from msd.contract.bundle import open_bundle
from service.runtimes.openvino import OpenVinoRuntime

runtimes = [OpenVinoRuntime(open_bundle(Path(sys.argv[1])), "fp32", threads=1)]
thread = threading.Thread(target=runtimes.clear)
thread.start()
thread.join()
signal.signal(signal.SIGTERM, lambda *_: print("heard"))
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_signals_are_heard_after_a_runtime_is_freed_by_another_thread(made_for: Make) -> None:
    command = [sys.executable, "-c", _FREED_BY_ANOTHER_THREAD, str(made_for("fp32").folder)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    assert (ended.returncode, ended.stdout) == (0, "heard\n"), ended.stderr


def test_bf16_is_got_or_refused(made_for: Make, asked: Asked) -> None:
    if not has_bf16():
        with pytest.raises(RuntimeRefused, match="bf16, which OpenVINO does not support"):
            OpenVinoRuntime(made_for("bf16"), "bf16", threads=1)
        return
    runtime = OpenVinoRuntime(made_for("bf16"), "bf16", threads=2)
    found = [np.abs(runtime.run(tensors)["pctr"] - expected).max() for tensors, expected in asked]
    assert (runtime.engine.precision, runtime.engine.threads) == ("bf16", 2)
    # No fp32 kernel is as far off as that, nor any bf16 one further.
    assert 1e-4 < max(found) < TOLERANCES[runtime.engine.key]


@pytest.mark.parametrize("count", [1, 2, 7, 9, 57, 300])
def test_scores_do_not_depend_on_the_padding(made_for: Make, asked: Asked, count: int) -> None:
    runtime = OpenVinoRuntime(made_for("fp32"), "fp32", threads=1)
    tensors, _ = max(asked, key=lambda golden: len(golden[1]))
    alone = [runtime.run(_resized(tensors, 1))["pctr"][0]]
    found = runtime.run(_resized(tensors, count))["pctr"]

    assert found.shape == (count,)
    np.testing.assert_allclose(found[:1], alone, atol=1e-6)
    found[:] = 0.0  # what was given out is the caller's: no later run sees it or changes it
    assert runtime.run(_resized(tensors, 1))["pctr"] == alone
    assert not found.any()


@pytest.mark.parametrize("precision", ["fp32", *["bf16"] * has_bf16()])
def test_about_as_many_as_are_expected_have_a_graph_of_their_own(
    made_for: Make, asked: Asked, precision: OpenVinoPrecision
) -> None:
    """Its scores are those of the other graph, but for rounding, whatever came before in the same arrays."""
    runtime, plain = (OpenVinoRuntime(made_for(precision), precision, 1, expected) for expected in (200, 0))

    assert 208 in runtime.warm_up_sizes(300)
    assert 192 not in runtime.warm_up_sizes(300)
    for count in (1, 156, 157, 200, 208, 209, 180):
        for tensors, _ in asked:
            found = runtime.run(_resized(tensors, count))["pctr"]
            assert found.shape == (count,)
            np.testing.assert_allclose(
                found, plain.run(_resized(tensors, count))["pctr"], atol=1e-6 if precision == "fp32" else 0.05
            )


@pytest.mark.parametrize("expected", [0, 40])
def test_several_threads_run_at_once_and_each_gets_its_own_scores(made_for: Make, asked: Asked, expected: int) -> None:
    runtime = OpenVinoRuntime(made_for("fp32"), "fp32", 1, expected, streams=3)
    plain = OpenVinoRuntime(made_for("fp32"), "fp32", 1)
    wanted = [(_resized(tensors, count), count) for tensors, _ in asked for count in (1, 7, 40)]
    right = [plain.run(tensors)["pctr"] for tensors, _ in wanted]
    begin = threading.Barrier(3)

    def run(first: int) -> None:
        begin.wait(60)
        for turn in range(200):
            place = (first + turn) % len(wanted)
            np.testing.assert_allclose(runtime.run(wanted[place][0])["pctr"], right[place], atol=1e-6)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(run, (0, 5, 11)))
    assert runtime.engine.threads == 1


def test_more_than_a_request_may_have_are_not_expected(made_for: Make) -> None:
    """Whatever a manifest says, no graph is made and no golden repeated for it."""
    bundle = made_for("fp32")
    for candidates, expected in ((0, 0), (200, 200), (2_000, 2_000), (2_001, 0), (10**18, 0)):
        record = PrecisionRecord(candidates=candidates)
        changed = Bundle(bundle.folder, bundle.manifest.model_copy(update={"precision": record}))
        assert expected_candidates(changed, 2_000) == expected


def test_without_openvino_the_extra_is_named(made_for: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RuntimeRefused, match=r"pip install 'msd-ctr\[openvino\]'"):
        OpenVinoRuntime(made_for("bf16"), "bf16", threads=1)


def test_input_that_is_handed_on_as_it_is_keeps_its_name(made_for: Make, asked: Asked, tmp_path: Path) -> None:
    """As in the graphs of others, whose inputs are cast to the type that they may have already."""
    fitting = made_for("fp32")
    model = build_ranker(fitting.schema, Recipe(dense=True))
    for number, tensor in enumerate(model.graph.input):
        for node in model.graph.node:
            node.input[:] = [f"a{number}" if name == tensor.name else name for name in node.input]
        cast = onnx.helper.make_node("Cast", [tensor.name], [f"a{number}"], to=tensor.type.tensor_type.elem_type)
        model.graph.node.insert(0, cast)
    (tmp_path / RANKER).write_bytes(model.SerializeToString())

    runtime = OpenVinoRuntime(Bundle(tmp_path, fitting.manifest), "fp32", threads=1)

    for tensors, expected in asked:
        np.testing.assert_allclose(runtime.run(tensors)["pctr"], expected, atol=1e-5)


def test_cpu_without_bf16_is_refused() -> None:
    check_bf16(Path("ranker.onnx"), ["FP32", "BF16"])
    with pytest.raises(RuntimeRefused, match=r"ranker.onnx: .*supports FP16, FP32\); set MSD_RUNTIME=onnxruntime"):
        check_bf16(Path("ranker.onnx"), ["FP32", "FP16"])


def test_graph_without_products_cannot_run_in_bf16(bundle: Bundle) -> None:
    """OpenVINO would say that it does, and run it all in fp32; where it has no bf16 at all, that is told first."""
    why = "bf16 was requested, but OpenVINO runs its matrix products in nothing"
    with pytest.raises(RuntimeRefused, match=why if has_bf16() else "which OpenVINO does not support on this CPU"):
        OpenVinoRuntime(bundle, "bf16", threads=1)


def test_bundle_in_bf16_is_served_as_its_manifest_says(made_for: Make, tmp_path: Path) -> None:
    folder = made_for("bf16").folder
    for runtime, key in (("auto", ["openvino", "bf16"]), ("onnxruntime", ["onnxruntime", "fp32"])):
        if runtime == "auto" and not has_bf16():
            assert "set MSD_RUNTIME=onnxruntime" in run_msd("serve", str(folder), "--port", "0").stderr
            continue
        with live_service(folder, tmp_path, runtime=runtime, max_candidates=64) as running, running.client() as client:
            described = client.get("/v1/model").json()["runtime"]
        assert [described["name"], described["precision"]] == key


@given(st.integers(1, 100_000))
def test_padded_size_wastes_a_fifth_at_most(count: int) -> None:
    size = padded_size(count)

    assert count <= size
    assert (size - count) * 5 <= size
    assert padded_size(size) == size
