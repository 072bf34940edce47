"""The core is built wherever there is a compiler; where there is none, the service says what to do."""

import ast
import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import native
from native.build import STUB, BuildError, build
from tests.bundles.factory import build_bundle

ROOT = Path(__file__).parents[2]
HAS_COMPILER = any(shutil.which(name) for name in ("c++", "g++", "clang++"))


def run(code: str, path: Path) -> str:
    """What a fresh interpreter prints that finds this `native` first."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env={"PYTHONPATH": f"{path}:{ROOT}"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def copied(folder: Path) -> Path:
    """The package without what was built."""
    shutil.copytree(ROOT / "native", folder / "native", ignore=shutil.ignore_patterns("_core*", "__pycache__"))
    return folder / "native"


def test_core_is_built_where_there_is_a_compiler() -> None:
    assert (native.core is not None) == HAS_COMPILER, native.REASON


def test_types_are_those_of_all_that_is_in_the_core() -> None:
    """They were written with it: mypy sees what is there."""
    stub = ast.parse((ROOT / "native" / STUB).read_text())
    names = {one.name for one in stub.body if isinstance(one, ast.ClassDef | ast.FunctionDef)}
    assert names == {name for name in dir(native.core) if not name.startswith("_")} - {"LAYOUT", "INSTRUCTIONS"}


def test_missing_compiler_is_reported_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "native.build", "--out", tmp_path],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("native core: not built, so `msd serve` will not start: there is no C++ compiler")
    assert done.stderr.count("\n") == 1


def test_core_older_than_its_sources_is_built_anew(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    code = "from native import build as b; b.build = lambda folder: 'built'; print(b.current())"
    made = folder / f"_core{EXTENSION_SUFFIXES[0]}"
    newest = max(path.stat().st_mtime for path in folder.rglob("*"))

    assert run(code, tmp_path) == "built\n"
    for path, expected in ((made, "built"), (folder / STUB, str(made))):
        path.touch()
        os.utime(path, (newest + 1, newest + 1))
        assert run(code, tmp_path) == f"{expected}\n"
    os.utime(folder / "module.cpp", (newest + 2, newest + 2))
    assert run(code, tmp_path) == "built\n"


def test_compiler_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(BuildError, match="false ended with status 1"):
        build(tmp_path)
    monkeypatch.setenv("CXX", "/no/such/compiler")
    with pytest.raises(BuildError, match="could not be run"):
        build(tmp_path)
    assert not list(tmp_path.iterdir())


def test_service_without_the_core_says_how_to_build_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied(tmp_path)
    # Else the working directory, which has the core, comes first.
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    bundle = build_bundle(tmp_path / "bundle").folder
    done = subprocess.run(
        [sys.executable, "-m", "msd", "serve", bundle, "--port", "0"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "the native core: not built for this interpreter; `python -m native.build` builds it" in done.stderr


@pytest.mark.parametrize(
    ("suffix", "content", "reason"),
    [
        ("", b"", "not built for this interpreter; `python -m native.build` builds it"),
        (EXTENSION_SUFFIXES[0], b"", "it cannot be loaded ("),
        (EXTENSION_SUFFIXES[0], b"\x7fELF, but no more", "it cannot be loaded ("),
        (".py", b"LAYOUT = 0\n", "built for another version of this package"),
    ],
)
def test_unusable_core_is_not_loaded(suffix: str, content: bytes, reason: str, tmp_path: Path) -> None:
    folder = copied(tmp_path)
    if suffix:
        (folder / f"_core{suffix}").write_bytes(content)
    assert run("import native; print(native.core, native.REASON)", tmp_path).startswith(f"None {reason}")
