"""The uncertainty of a bundle's scores: measured at export, bounded in the manifest."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from model_export.errors import ExportError
from model_export.uncertainty import measure_uncertainty
from msd.__main__ import main
from msd.contract.bundle import Manifest, open_bundle
from tests.model_export.conftest import Exported, Run


def test_uncertainty_is_measured(run: Run, plain: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(one) for one in (run.dataset, run.knowledge, run.student, run.plain, tmp_path / "bundle")]
    with pytest.raises(SystemExit, match="0"):
        main(["export", *folders, "--uncertainty", "--requests", "8"])
    found = open_bundle(tmp_path / "bundle").manifest

    assert found.uncertainty is not None
    assert found.uncertainty.coverage.keys() >= {"new"}
    assert "Held-out ads" in capsys.readouterr().out
    std = found.uncertainty.logit_std(np.array([0.0, 1_000.0]), np.array([0.3, 0.3]))
    assert std[0] >= std[1] > 0
    before = plain.bundle.manifest
    assert before.uncertainty is None
    assert "uncertainty" not in json.loads(before.model_dump_json())


@pytest.mark.parametrize("changes", [{"new": 0.0}, {"new": 11.0}, {"more": 1}])
def test_rejects_uncertainty_out_of_bounds(plain: Exported, changes: dict[str, float]) -> None:
    document = plain.bundle.manifest.model_dump(mode="json")
    document["uncertainty"] = {"new": 0.5, **changes}

    with pytest.raises(ValueError, match="uncertainty"):
        Manifest.model_validate(document)


def test_rejects_too_few_items_and_aggregated_rows(plain: Exported) -> None:
    for is_aggregated, message in ((False, "19 items, and 20 are needed"), (True, "one row an impression")):
        evidence = SimpleNamespace(items=np.arange(19), is_aggregated=is_aggregated)
        with pytest.raises(ExportError, match=message):
            measure_uncertainty(plain.bundle.schema, evidence, None)  # type: ignore[arg-type]
