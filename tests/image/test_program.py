"""`python -m image`: what it says where it cannot go on, and what it reads of an image's file."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from image.archive import layers_over
from image.command import ImageError, logged, output_of
from image.engine import Inspected, find_engine
from image.prune import prune

ROOT = Path(__file__).parents[2]


def said(*arguments: str, **environment: str) -> str:
    """What the program says as it gives up."""
    ended = subprocess.run(
        [sys.executable, "-m", "image", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    return ended.stderr


def engine_that_answers(folder: Path, name: str, status: int = 0) -> Path:
    """A program of that name which ends with a status, in a folder of its own for PATH."""
    program = folder / name
    program.write_text(f"#!/bin/sh\nexit {status}\n")
    program.chmod(0o755)
    return folder


def test_no_engine(tmp_path: Path) -> None:
    assert "install docker, podman or buildah" in said(PATH=str(tmp_path))
    assert "podman is not here" in said("--engine", "podman", PATH=str(tmp_path))


def test_no_bundle(tmp_path: Path) -> None:
    path = f"{engine_that_answers(tmp_path, 'buildah')}{os.pathsep}{os.environ['PATH']}"

    assert "no bundle here; `make demo` makes one" in said("--engine", "buildah", "--bundle", str(tmp_path), PATH=path)


def test_an_engine_without_its_daemon_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine_that_answers(tmp_path, "docker", 1)
    monkeypatch.setenv("PATH", str(engine_that_answers(tmp_path, "podman")))

    assert find_engine().name == "podman"
    with pytest.raises(ImageError, match="docker is not here, or does not answer"):
        find_engine("docker")


def test_a_command_that_fails_tells_its_end(tmp_path: Path) -> None:
    script = "for i in $(seq 30); do echo line $i; done; exit 3"

    with pytest.raises(ImageError, match=r"(?s)log has all of it.*line 16\n.*line 30$"):
        logged(["sh", "-c", script], tmp_path / "log")
    with pytest.raises(ImageError, match=r"(?s)failed:\n.*line 30$"):
        output_of(["sh", "-c", script])


def test_an_images_own_command() -> None:
    assert Inspected({"Entrypoint": ["msd"], "Cmd": ["serve"]}, []).command == ["msd", "serve"]
    assert Inspected({"Entrypoint": None, "Cmd": ["sh"]}, []).command == ["sh"]


def archive_of(path: Path, layers: dict[str, int], steps: list[dict[str, object]]) -> Path:
    """An image's file with layers of some sizes, by their digests."""
    documents = {
        "manifest.json": json.dumps([{"Config": "config.json", "Layers": [f"{name}.tar" for name in layers]}]),
        "config.json": json.dumps({"rootfs": {"diff_ids": list(layers)}, "history": steps}),
    }
    contents = {name: text.encode() for name, text in documents.items()}
    contents |= {f"{name}.tar": bytes(size) for name, size in layers.items()}
    with tarfile.open(path, "w") as file:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path


def test_layers_over_the_base(tmp_path: Path) -> None:
    steps: list[dict[str, object]] = [
        {"created_by": "the base"},
        {"created_by": "ENV a=b", "empty_layer": True},
        {"created_by": "COPY  of   packages"},
        {"created_by": "COPY of the product"},
    ]
    archive = archive_of(tmp_path / "image.tar", {"base": 10, "packages": 2000, "product": 30}, steps)

    assert layers_over(archive, ["base"]) == [("COPY of packages", 2000), ("COPY of the product", 30)]
    with pytest.raises(ImageError, match="not made over the base"):
        layers_over(archive, ["another"])


def test_pruning_takes_what_nobody_loads_and_leaves_the_rest(tmp_path: Path) -> None:
    goes = [
        "numpy/_core/tests/test_multiarray.py",
        "numpy/f2py/crackfortran.py",
        "onnxruntime/capi/libonnxruntime.so.1.32.0",
        "openvino/libs/libopenvino_intel_gpu_plugin.so",
        "openvino/libs/libopenvino_tensorflow_lite_frontend.so.2641",
        "pyarrow/libarrow_flight.so.2400",
        "pygments/lexers/python.py",
        "lmdb/cffi.pyi",
    ]
    stays = [
        "numpy/_core/numeric.py",
        "onnxruntime/capi/onnxruntime_pybind11_state.so",
        "openvino/libs/libopenvino_intel_cpu_plugin.so",
        "openvino/libs/libopenvino_onnx_frontend.so.2641",
        "pyarrow/_fs.py",
        "pygments/lexers/__init__.py",
    ]
    for name in [*goes, *stays]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    prune(tmp_path)

    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == sorted(stays)
