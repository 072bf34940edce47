"""The naive service over a ranker of MSD's own."""

import time
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from lab.naive.app import create_app
from lab.naive.rows import MemoryValues
from lab.reference.bundles import own_bundles
from msd.contract.errors import BundleError
from native.bundle_rows import BundleRows
from service.runtimes.onnxruntime import OnnxRuntime
from tests.model_export.conftest import Exported, Run, exported, run  # noqa: F401 - fixtures
from tests.ranker.brief import brief_tastes  # noqa: F401 - a fixture


def test_scores_are_those_of_the_bundle(exported: Exported, run: Run, tmp_path: Path) -> None:  # noqa: F811
    bundle, values, rows = exported.bundle, MemoryValues(exported.bundle), BundleRows.of(exported.bundle)
    made, runtime = own_bundles(bundle.folder, run.semantic, tmp_path), OnnxRuntime(bundle, "cpu", 1)
    client = TestClient(create_app({"NAIVE_BUNDLE": str(made.best), "NAIVE_GRAPH": str(made.tiled)}))
    ids = [*sorted(values.held["item"])[:5], "unknown"]
    for user_id in (*sorted(values.held["user"])[:3], "nobody"):
        reply = client.post("/score", json={"user_id": user_id, "candidates": [{"id": item_id} for item_id in ids]})
        asked = rows.golden({"user_id": user_id, "at": time.time(), "candidates": {"id": ids}})
        expected = runtime.run(rows.tensors(asked))["pctr"]
        assert [score["id"] for score in reply.json()["scores"]] == ids
        np.testing.assert_allclose([score["pctr"] for score in reply.json()["scores"]], expected, rtol=0, atol=1e-5)
        assert len(set(expected.tolist())) > 1
    with pytest.raises(BundleError, match="is not of the ranker in .*: their schemas differ"):
        own_bundles(bundle.folder, run.plain, tmp_path)
