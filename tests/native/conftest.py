"""Tests of the native core are there where it is built; that it is built wherever it can be, `test_build` says."""

import native

collect_ignore = (
    [] if native.core else ["test_exploration.py", "test_id_map.py", "test_infer.py", "test_openrtb.py", "test_rows.py"]
)
