"""CUDA: refused without a GPU; tests that need one are marked `gpu`."""

import ctypes

import numpy as np
import onnxruntime
import pytest

from service.runtimes.choice import open_runtime
from service.runtimes.onnxruntime import OnnxRuntime, card_name
from service.runtimes.runtime import RuntimeRefused
from service.settings import Settings
from tests.service.runtimes.conftest import Asked, Make

needs_card = pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers() or not card_name(),
    reason="needs an NVIDIA GPU",
)


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


def test_without_a_card_cuda_is_refused(made_for: Make) -> None:
    if card_name():
        return
    bundle = made_for("fp32")
    with pytest.raises(RuntimeRefused, match=r"provider 'cuda' is unavailable.*msd-ctr\[gpu\].*MSD_PROVIDER=cpu"):
        open_runtime(bundle, Settings(bundle=bundle.folder, provider="cuda"))


def test_driver_names_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert card_name() == "NVIDIA of tests"
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(broken=True))
    assert card_name() == ""

    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert card_name() == ""


@pytest.mark.gpu
@needs_card
def test_card_scores_as_the_goldens_do(made_for: Make, asked: Asked) -> None:
    runtime = OnnxRuntime(made_for("fp32"), "cuda", threads=1)
    assert (runtime.engine.key, runtime.engine.instructions) == ("onnxruntime-cuda-fp32", ())
    assert runtime.engine.device
    for tensors, expected in asked:
        np.testing.assert_allclose(runtime.run(tensors)["pctr"], expected, atol=1e-5)


@pytest.mark.gpu
@needs_card
def test_card_refuses_int8(made_for: Make) -> None:
    with pytest.raises(RuntimeRefused, match="quantised for CPUs with VNNI, but this is cuda"):
        OnnxRuntime(made_for("int8"), "cuda", 1, "int8")
