"""Builds the native core while the package is built, where there is a compiler; without one the package is pure Python.

It is hatchling's hook; what it does is `native/build.py`'s to say.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeCoreHook(BuildHookInterface[Any]):
    """Adds the extension to a wheel, and puts it beside its sources for an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Builds in place; says so in one line where that fails."""
        path = Path(self.root) / "native" / "build.py"
        spec = importlib.util.spec_from_file_location("native_build", path)
        if spec is None or spec.loader is None:
            raise FileNotFoundError(path)
        native_build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(native_build)
        try:
            made = native_build.build()
        except native_build.BuildError as error:
            print(f"native core: not built, Python does its work: {error}", file=sys.stderr)  # noqa: T201 - for pip
            return
        build_data["pure_python"], build_data["infer_tag"] = False, True
        build_data["artifacts"].append(f"native/{made.name}")
