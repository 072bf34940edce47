"""Builds the native core while the package is built; where there is no compiler, with the package `ziglang`.

It is hatchling's hook; what it does is `native/build.py`'s to say. MSD_TARGET=aarch64-linux-gnu makes a wheel for that
machine.
"""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeCoreHook(BuildHookInterface[Any]):
    """Adds the extension to a wheel, and puts it beside its sources for an editable install."""

    def dependencies(self) -> list[str]:
        """Return what the build needs beside the declared packages."""
        is_here = not os.environ.get("MSD_TARGET") and _native_build(self.root).has_compiler()
        return [] if is_here else ["ziglang>=0.13,<1"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Builds in place what is not newer than its sources already; says so in one line where that fails."""
        native_build, target = _native_build(self.root), os.environ.get("MSD_TARGET")
        try:
            made = native_build.build(target=target) if target else native_build.current()
        except native_build.BuildError as error:
            if target:
                raise
            print(f"native core: not built, so `msd serve` will not start: {error}", file=sys.stderr)  # noqa: T201 - for pip
            return
        build_data["pure_python"], build_data["infer_tag"] = False, not target
        if target:
            machine, python = target.partition("-")[0], f"cp{sys.version_info.major}{sys.version_info.minor}"
            build_data["tag"] = f"{python}-{python}-linux_{machine}"
        build_data["artifacts"] += [f"native/{made.name}", f"native/{native_build.STUB}"]


def _native_build(root: str) -> ModuleType:
    path = Path(root) / "native" / "build.py"
    spec = importlib.util.spec_from_file_location("native_build", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
