"""Builds the native core in place with a C++ compiler: `python -m native.build`. Installing the package does so too.

One file is compiled, and one of nanobind's, for any processor of its architecture: faster instructions are chosen at
load time. Without a compiler, the package `ziglang` is one. Needs only the standard library, numpy and nanobind.
"""

import argparse
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

FOLDER = Path(__file__).parent
STUB = "_core.pyi"
"""The types of the extension, written beside it. A sanitised one, or another machine's, cannot be read here."""
_SOURCE = FOLDER / "module.cpp"
_COMPILERS = ("c++", "g++", "clang++")
# Products and sums are rounded separately, as numpy rounds them; `char` is unsigned on every architecture.
_FLAGS = (
    "-std=c++20",
    "-funsigned-char",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-pthread",
    "-DNDEBUG",
)
# For nanobind's own file alone: they would slow the core down.
_BINDING_FLAGS = ("-DNB_COMPACT_ASSERTIONS", "-fno-strict-aliasing")
_SANITISERS = {
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "thread": ("-fsanitize=thread",),
}
_SANITISED = ("-O1", "-g", "-fno-omit-frame-pointer")
# Of nanobind's folder: the headers that its sources need.
_MAPS = Path("ext", "robin_map", "include")
_GLIBC = ".2.28"  # the oldest that a build for another machine runs on
_TIMEOUT_S = 600


class BuildError(Exception):
    """The core could not be built; the message says why, in one line."""


def build(folder: Path = FOLDER, sanitiser: str | None = None, target: str | None = None) -> Path:
    """Build the extension in a folder; with AddressSanitizer and UBSan ("address") or ThreadSanitizer ("thread").
    `target`: another machine of the same word size, such as aarch64-linux-gnu. Raises BuildError."""
    compiler = _zig("-target", f"{target}{_GLIBC}") if target else _compiler()
    made, bindings = folder / _name(target), _bindings()
    # Under another name first: a running process may have the old one open.
    temporary, library = (made.with_suffix(f".{os.getpid()}.{suffix}") for suffix in ("tmp", "o"))
    sanitised = (*_SANITISED, *_SANITISERS[sanitiser]) if sanitiser else ()
    folders = sysconfig.get_paths()["include"], _numpy_include(), bindings / "include", bindings / _MAPS
    includes = [option for folder in folders for option in ("-isystem", str(folder))]
    threading = ("-DNB_FREE_THREADED",) if sysconfig.get_config_var("Py_GIL_DISABLED") else ()
    command = [*compiler, *_FLAGS, *threading, *sanitised, f"-DNATIVE_LAYOUT={_layout()}", *includes]
    link = ["-shared", *(("-undefined", "dynamic_lookup") if sys.platform == "darwin" else ())]
    try:
        _run([*command, *_BINDING_FLAGS, "-c", str(bindings / "src" / "nb_combined.cpp"), "-o", str(library)])
        _run([*command, *link, str(_SOURCE), str(library), "-o", str(temporary)])
        temporary.replace(made)
        if not sanitiser and not target:
            stubgen = [sys.executable, "-m", "nanobind.stubgen", "-q", "-m", "_core"]
            _run([*stubgen, "-i", str(folder), "-o", str(folder / STUB)])
    finally:
        for left in (library, temporary):
            left.unlink(missing_ok=True)
    return made


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} could not be run: {error}") from error
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        reason = errors[0] if errors else done.stderr[-300:].strip()
        raise BuildError(f"{command[0]} ended with status {done.returncode}: {reason}")


def current(folder: Path = FOLDER) -> Path:
    """Return the extension in a folder, built anew unless it and its types are newer than its sources. Raises
    BuildError."""
    made = folder / _name()
    sources = (_SOURCE, *FOLDER.glob("*/*.hpp"), FOLDER / "__init__.py", Path(__file__))
    newest = max(source.stat().st_mtime for source in sources)
    is_new = all(one.exists() and one.stat().st_mtime >= newest for one in (made, folder / STUB))
    return made if is_new else build(folder)


def _name(target: str | None = None) -> str:
    suffix: str = sysconfig.get_config_var("EXT_SUFFIX")
    return f"_core{suffix.replace(sysconfig.get_config_var('MULTIARCH'), target) if target else suffix}"


def _compiler() -> list[str]:
    if given := shlex.split(os.environ.get("CXX", "")):
        return given
    for name in _COMPILERS:
        if found := shutil.which(name):
            return [found]
    if importlib.util.find_spec("ziglang"):
        return _zig()
    raise BuildError(
        f"there is no C++ compiler ({', '.join(_COMPILERS)}): install one, set CXX, or pip install ziglang"
    )


def _zig(*options: str) -> list[str]:
    # Its defaults are this machine's own processor, and 9 MB of debug information.
    return [sys.executable, "-m", "ziglang", "c++", *options, "-mcpu=baseline", "-s"]


def has_compiler() -> bool:
    """Return whether this machine has a C++ compiler."""
    try:
        return bool(_compiler())
    except BuildError:
        return False


def _numpy_include() -> str:
    try:
        import numpy
    except ImportError as error:
        raise BuildError("numpy, whose headers are needed, is not installed") from error
    return numpy.get_include()


def _bindings() -> Path:
    """Return nanobind's folder."""
    spec = importlib.util.find_spec("nanobind")
    if spec is None or spec.origin is None:
        raise BuildError("nanobind, which is compiled with the core, is not installed")
    return Path(spec.origin).parent


def _layout() -> int:
    """Return `native.LAYOUT` without importing the package, which may not be built yet."""
    for line in (FOLDER / "__init__.py").read_text("utf-8").splitlines():
        if line.startswith("LAYOUT = "):
            return int(line.removeprefix("LAYOUT = "))
    raise BuildError(f"{FOLDER / '__init__.py'}: has no LAYOUT")


def main() -> None:
    """Build, and print the result in one line."""
    options = argparse.ArgumentParser(description=main.__doc__)
    options.add_argument("--sanitise", choices=_SANITISERS, help="With its sanitisers, to be preloaded.")
    options.add_argument("--if-stale", action="store_true", help="Only where it is older than its sources.")
    options.add_argument("--out", type=Path, default=FOLDER, help="The folder to put it in.")
    given = options.parse_args()
    try:
        made = current(given.out) if given.if_stale else build(given.out, given.sanitise)
    except BuildError as error:
        sys.exit(f"native core: not built, so `msd serve` will not start: {error}")
    print(f"native core: built ({made.name})")  # noqa: T201 - it is a command


if __name__ == "__main__":
    main()
