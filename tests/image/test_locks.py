"""The locks of the image: every package by its hashes, from no index in particular, as pyproject.toml allows."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
EXTRAS = {"cpu": "cpu encode fetch live log openvino sign trace", "gpu": "cuda encode fetch live log sign trace"}
INSIDE = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "python_version": "3.13"}
HASHED = re.compile(r"(?P<requirement>\S+==[^\\]+?)((?: \\)?\n    --hash=sha256:[0-9a-f]{64})+")


def locked(name: str) -> dict[str, Requirement]:
    """The packages of a lock, each pinned. All of the file has to be such."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text("utf-8")
    found = [Requirement(match["requirement"].strip()) for match in HASHED.finditer(text)]
    assert not HASHED.sub("", text).strip()
    assert all([one.operator for one in requirement.specifier] == ["=="] for requirement in found)
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def version(requirement: Requirement) -> str:
    """The one that it pins."""
    return next(iter(requirement.specifier)).version


def excluded() -> list[str]:
    """What the image leaves out."""
    lines = (ROOT / "requirements" / "excluded.txt").read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def wanted(target: str) -> list[Requirement]:
    """What pyproject.toml asks for in an image."""
    extras = PROJECT["project"]["optional-dependencies"]
    lines = [*PROJECT["project"]["dependencies"], *(line for extra in EXTRAS[target].split() for line in extras[extra])]
    found = [Requirement(line) for line in lines]
    return [one for one in found if one.marker is None or one.marker.evaluate(INSIDE)]


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_lock_satisfies_the_project(target: str) -> None:
    found = locked(target)

    for requirement in wanted(target):
        pinned = found[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version(pinned)), f"{pinned} is not {requirement}: run make locks"
    assert not set(found) & {"torch", "onnx", "transformers", *excluded()}


def test_target_has_one_build_of_onnxruntime() -> None:
    assert {name for name in locked("cpu") if name.startswith("onnxruntime")} == {"onnxruntime"}
    assert {name for name in locked("gpu") if name.startswith("onnxruntime")} == {"onnxruntime-gpu"}


def test_build_requirements_are_locked() -> None:
    found = locked("build")

    for builder in (Requirement(line) for line in PROJECT["build-system"]["requires"]):
        assert builder.specifier.contains(version(found[builder.name])), f"{builder}: run make locks"


def test_makefile_locks_the_same_extras() -> None:
    """The Makefile's own words, so that the next lock has the same packages."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target, extras in EXTRAS.items():
        assert f"LOCKED_{target.upper()} := {extras}\n" in makefile
