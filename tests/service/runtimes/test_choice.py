"""Who runs a bundle: what its manifest says, or a setting."""

import pytest

from service.runtimes.choice import open_runtime
from service.runtimes.runtime import RuntimeRefused
from service.settings import Settings, SettingsError
from tests.service.runtimes.bf16 import has_bf16
from tests.service.runtimes.conftest import Make


def test_the_manifest_is_followed(made_for: Make) -> None:
    bundle = made_for("fp32")
    assert open_runtime(bundle, Settings(bundle=bundle.folder)).engine.key == "onnxruntime-cpu-fp32"
    bundle = made_for("bf16")
    if has_bf16():
        assert open_runtime(bundle, Settings(bundle=bundle.folder)).engine.key == "openvino-cpu-bf16"


def test_a_setting_goes_before_it(made_for: Make) -> None:
    bundle = made_for("fp32")
    engine = open_runtime(bundle, Settings(bundle=bundle.folder, runtime="openvino", threads=2)).engine
    assert (engine.key, engine.threads) == ("openvino-cpu-fp32", 2)
    bundle = made_for("bf16")
    engine = open_runtime(bundle, Settings(bundle=bundle.folder, runtime="onnxruntime")).engine
    assert engine.key == "onnxruntime-cpu-fp32"


def test_cuda_is_not_to_be_had_of_openvino(made_for: Make) -> None:
    bundle = made_for("bf16")
    with pytest.raises(
        RuntimeRefused, match="made for bf16 on OpenVINO, which does not support cuda; set MSD_RUNTIME="
    ):
        open_runtime(bundle, Settings(bundle=bundle.folder, provider="cuda"))
    environ = {"MSD_BUNDLE": "b", "MSD_RUNTIME": "openvino", "MSD_PROVIDER": "cuda"}
    with pytest.raises(SettingsError, match="MSD_RUNTIME=openvino does not support MSD_PROVIDER=cuda"):
        Settings.from_environ(environ)
