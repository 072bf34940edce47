"""Two processes end with the same weights, about as good as one's; a wrong environment is an error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from msd.dataset.load import Dataset
from msd.free_port import free_port
from msd.ranker.features import build_features
from msd.ranker.schema_fit import fit_schema
from msd.student.vectors import load_vectors
from msd.training.folder import RankerRecord, load_ranker
from msd.training.parallel import ALONE, TeamError, join_team
from msd.training.train import train_ranker
from tests.ranker.made import QUICK, SMALL, quiet
from tests.ranker.team_member import MODEL_FOLDER, team_figures
from tests.service.live import ROOT

SAID_FILE = "said.txt"
_TEAM = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(scope="module")
def team(tiny_folder: Path, student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes wrote that `torchrun` started."""
    out = tmp_path_factory.mktemp("team")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MSD_") and name not in _TEAM}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    with (out / SAID_FILE).open("w") as said:
        done = subprocess.run(
            [*torchrun, "tests.ranker.team_member", *map(str, (tiny_folder, student, out, free_port(), free_port()))],
            env={**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "300"},
            cwd=ROOT,
            stdout=said,
            stderr=subprocess.PIPE,
            text=True,
            timeout=600,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return out


def _aucs(record: RankerRecord) -> list[float]:
    """The valid AUC of each epoch."""
    return [point.valid_auc for point in record.curve]


def test_both_processes_end_with_the_same_weights_and_figures(team: Path) -> None:
    first, second = (load_file(team / f"{rank}.safetensors") for rank in (0, 1))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    records = [RankerRecord.model_validate_json((team / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert _aucs(records[0]) == _aucs(records[1]) != []


def test_two_processes_rank_valid_about_as_well_as_one(team: Path, semantic_model: Path) -> None:
    together, alone = (max(_aucs(load_ranker(folder)[1])) for folder in (team / MODEL_FOLDER, semantic_model))
    assert abs(together - alone) < 0.03


def test_gradients_and_figures_are_means_and_shares_are_parts(team: Path) -> None:
    first, second = (json.loads((team / f"team-{rank}.json").read_text()) for rank in (0, 1))
    assert first["means"] == second["means"] == [1.5, *[1.5] * 4, 5.0]
    assert (first["share"], second["share"]) == ([0, 2, 4], [1, 3, 5])
    assert team_figures(ALONE) == {"means": [1.0, *[3.0] * 4, 0.0], "share": list(range(7))}


def test_command_leaves_one_model_and_prints_once(team: Path) -> None:
    model, said = team / MODEL_FOLDER, (team / SAID_FILE).read_text()
    assert said.count("valid AUC") == 1
    _, record = load_ranker(model)
    assert record.training["processes"] == 2
    assert not (model / ".work").exists()
    # The second time.
    assert said.count("done before, nothing to do") == 1


def test_without_torchrun_there_is_a_team_of_one() -> None:
    with join_team({}) as team:
        assert (team.rank, team.size, team.leads) == (0, 1, True)
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set, RANK is not; start the processes with `torchrun`"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "LOCAL_RANK is not"),
        ({"WORLD_SIZE": "two", "RANK": "0", "LOCAL_RANK": "0"}, "WORLD_SIZE='two' is not a number"),
        ({"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0"}, "RANK=2 is not one of WORLD_SIZE=2 processes"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "the 2 processes cannot find each other"),
    ],
)
def test_rejects_wrong_environment(environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _TEAM:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(TeamError, match=message), join_team(environment):
        pass


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_the_ranker_learns_as_on_a_cpu(tiny: Dataset, student: Path, tmp_path: Path) -> None:
    features = build_features(tiny, fit_schema(tiny), load_vectors(student))
    curves = []
    for device in ("cpu", "cuda"):
        checkpoint = tmp_path / device / "checkpoint.safetensors"
        model, curve = train_ranker(features.to(torch.device(device)), SMALL, QUICK, checkpoint, device, quiet)
        assert model.calibrator.knots.device.type == device
        curves.append(max(point.valid_auc for point in curve))
    assert abs(curves[0] - curves[1]) < 0.03
