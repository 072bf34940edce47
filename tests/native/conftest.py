"""Tests of the native core are there where it is built; that it is built wherever it can be, `test_build` says."""

import native

collect_ignore = (
    []
    if native.core
    else [f"test_{name}.py" for name in ("exploration", "id_map", "infer", "offline", "openrtb", "rows")]
)
