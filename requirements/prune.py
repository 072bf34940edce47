"""Script of the image's build: it removes files from an environment that come with its packages and that a service
never loads. Knows the packages' files; `python -m lab.image` proves that the rest is enough."""

import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

# Read only by compilers, type checkers and tests.
EVERYWHERE = ("**/*.pyi", "**/*.pyx", "**/*.pxd", "**/*.pxi", "**/*.h", "**/*.hpp", "*/**/tests")
BY_PACKAGE = {
    "numpy": ("f2py", "_core/lib", "random/lib", "_core/_simd.*", "_core/_*_tests.*", "_pyinstaller"),
    # Python calls a copy linked into its own module; this is the library for C++.
    "onnxruntime": ("capi/libonnxruntime.so.*", "datasets", "quantization", "tools", "transformers"),
    # Bundles are ONNX and run on CPUs. OpenVINO finds its plugins and frontends by their files.
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
    # The console colours tables, not source code.
    "pygments": ("lexers/[a-z]*.py", "lexers/_[a-z]*_*.py"),
    # The request log writes Parquet to memory: no servers, clouds or other formats.
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
# Debug symbols are a quarter of these files; other packages' libraries come without.
DEBUGGABLE = (
    "pyarrow/*.so*",
    "uvloop/*.so",
    "tokenizers/*.so",
    "cryptography/hazmat/bindings/*.so",
    "httptools/**/*.so",
    "lmdb/*.so",
    "obstore/*.so",
)


def unneeded(site_packages: Path) -> Iterator[Path]:
    """Yield the removable files and folders of the installed packages."""
    for pattern in EVERYWHERE:
        yield from site_packages.glob(pattern)
    for package, patterns in BY_PACKAGE.items():
        for pattern in patterns:
            yield from (site_packages / package).glob(pattern)


def prune(site_packages: Path) -> None:
    """Remove these files, and debug symbols from the remaining libraries."""
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
    # Packages also install commands for people; the image keeps only Python and the product's own.
    for script in Path(sysconfig.get_path("scripts")).iterdir():
        if not script.name.startswith("python"):
            script.unlink()
