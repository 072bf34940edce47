"""`python -m lab.image` without an engine or a bundle, and what the image's build removes."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REMOVED = (
    "numpy/_core/tests/test_multiarray.py",
    "numpy/f2py/crackfortran.py",
    "onnxruntime/capi/libonnxruntime.so.1.32.0",
    "openvino/libs/libopenvino_intel_gpu_plugin.so",
    "openvino/libs/libopenvino_tensorflow_lite_frontend.so.2641",
    "pyarrow/libarrow_flight.so.2400",
    "pygments/lexers/python.py",
    "lmdb/cffi.pyi",
)
KEPT = (
    "numpy/_core/numeric.py",
    "onnxruntime/capi/onnxruntime_pybind11_state.so",
    "openvino/libs/libopenvino_intel_cpu_plugin.so",
    "openvino/libs/libopenvino_onnx_frontend.so.2641",
    "pyarrow/_fs.py",
    "pygments/lexers/__init__.py",
)


@pytest.mark.parametrize(("engine", "message"), [(False, "no container engine answers"), (True, "no bundle here")])
def test_missing_engine_or_bundle_is_an_error(engine: bool, message: str, tmp_path: Path) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\n")
    (tmp_path / "docker").chmod(0o755 if engine else 0o644)
    ended = subprocess.run(
        [sys.executable, "-m", "lab.image", "--bundle", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_prune_removes_what_a_service_never_loads(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("prune", ROOT / "requirements" / "prune.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in (*REMOVED, *KEPT):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    module.prune(tmp_path)

    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(KEPT)
