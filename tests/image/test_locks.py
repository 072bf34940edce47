"""Locks of the image: every package is pinned by its hashes and satisfies pyproject.toml."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
# The extras that `make locks` locks.
EXTRAS = dict(re.findall(r"^LOCKED_(\w+) := (.+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
INSIDE = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "python_version": "3.13"}
HASHED = re.compile(r"(?P<requirement>\S+==[^\\]+?)((?: \\)?\n    --hash=sha256:[0-9a-f]{64})+")


def locked(name: str) -> dict[str, str]:
    """Return the pinned version of each package in a lock, which must contain nothing else."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text("utf-8")
    found = [Requirement(match["requirement"].strip()) for match in HASHED.finditer(text)]
    assert not HASHED.sub("", text).strip()
    assert all([part.operator for part in requirement.specifier] == ["=="] for requirement in found)
    return {canonicalize_name(pinned.name): next(iter(pinned.specifier)).version for pinned in found}


@pytest.mark.parametrize(("target", "runtime"), [("cpu", "onnxruntime"), ("gpu", "onnxruntime-gpu")])
def test_lock_satisfies_the_project(target: str, runtime: str) -> None:
    versions, extras = locked(target), PROJECT["project"]["optional-dependencies"]
    lines = [line for extra in EXTRAS[target.upper()].split() for line in extras[extra]]
    excluded = (ROOT / "requirements" / "excluded.txt").read_text("utf-8").splitlines()

    for requirement in map(Requirement, [*PROJECT["project"]["dependencies"], *lines]):
        if requirement.marker is None or requirement.marker.evaluate(INSIDE):
            version = versions[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), f"{version} is not {requirement}: run make locks"
    assert {name for name in versions if name.startswith("onnxruntime")} == {runtime}
    assert not versions.keys() & {"torch", "onnx", "transformers", *excluded}


def test_build_requirements_are_locked() -> None:
    versions = locked("build")

    for builder in map(Requirement, PROJECT["build-system"]["requires"]):
        assert builder.specifier.contains(versions[builder.name]), f"{builder}: run make locks"
