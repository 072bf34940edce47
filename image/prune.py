"""Takes out of an environment what its packages bring and a service never loads: run by the image's build, in that
environment. Knows the packages' files; that the rest is enough is for `python -m image` to prove.
"""

import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

# Read by compilers, type checkers and tests alone.
EVERYWHERE = ("**/*.pyi", "**/*.pyx", "**/*.pxd", "**/*.pxi", "**/*.h", "**/*.hpp", "*/**/tests")
BY_PACKAGE = {
    "numpy": ("f2py", "_core/lib", "random/lib", "_core/_simd.*", "_core/_*_tests.*", "_pyinstaller"),
    # What Python calls is linked into its own module; this is the library for C++.
    "onnxruntime": ("capi/libonnxruntime.so.*", "datasets", "quantization", "tools", "transformers"),
    # Bundles are ONNX, and run on CPUs; OpenVINO finds its plugins and frontends by their files.
    "openvino": (
        "cmake",
        "libs/cache.json",
        "libs/libopenvino_intel_[gn]pu_plugin.so",
        "libs/libopenvino_auto*_plugin.so",
        "libs/libopenvino_hetero_plugin.so",
        "libs/libopenvino_c.so.*",
        *(f"libs/libopenvino_{name}_frontend.so.*" for name in ("gguf", "jax", "paddle", "pytorch", "tensorflow*")),
        *(f"frontend/{name}" for name in ("jax", "paddle", "pytorch", "tensorflow")),
        "tools",
        "torch",
    ),
    # The console colours tables, not programs.
    "pygments": ("lexers/[a-z]*.py", "lexers/_[a-z]*_*.py"),
    # The request log writes Parquet into memory: no servers, no clouds, no other formats.
    "pyarrow": (
        "src",
        "*flight*",
        "_pyarrow_cpp_tests*",
        "_azurefs*",
        "_gcsfs*",
        "_hdfs*",
        "_s3fs*",
        "*orc.cpython-*",
        "*encryption*",
        *(f"_{name}*.cpython-*" for name in ("acero", "csv", "dataset", "feather", "json", "substrait")),
        "include",
        "libarrow_python.so",
        "libarrow_python.so.*.*.*",
    ),
}
# What debuggers read takes a quarter of these; of others' libraries it is gone already.
DEBUGGABLE = (
    "pyarrow/*.so*",
    "uvloop/*.so",
    "tokenizers/*.so",
    "cryptography/hazmat/bindings/*.so",
    "httptools/**/*.so",
    "lmdb/*.so",
)


def unneeded(site_packages: Path) -> Iterator[Path]:
    """The files and folders that can go, of the packages that are there."""
    for pattern in EVERYWHERE:
        yield from site_packages.glob(pattern)
    for package, patterns in BY_PACKAGE.items():
        for pattern in patterns:
            yield from (site_packages / package).glob(pattern)


def prune(site_packages: Path) -> None:
    """Removes them, and the symbols for debuggers from what stays."""
    for path in list(unneeded(site_packages)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    libraries = [path for pattern in DEBUGGABLE for path in site_packages.glob(pattern)]
    if libraries:
        subprocess.run(["strip", "--strip-unneeded", *libraries], check=True)


if __name__ == "__main__":
    prune(Path(sysconfig.get_path("purelib")))
    # What packages install to be called by people; the service is called by its own name.
    for script in Path(sysconfig.get_path("scripts")).iterdir():
        if not script.name.startswith("python"):
            script.unlink()
