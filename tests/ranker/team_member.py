"""One process of a team, as `torchrun` starts it: writes what the team makes of figures, and what `msd train` leaves in
this process.
"""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from msd.__main__ import main
from msd.ranker.features import Features
from msd.training.choice import Training, Variant
from msd.training.folder import RECORD_FILE, TrainedNetwork
from msd.training.parallel import Team, join_team
from msd.training.train import Progress
from tests.ranker.brief import TASTE

MODEL_FOLDER = "model"


def train_by_command(dataset: Path, student: Path, out: Path, ports: Sequence[str], rank: int) -> None:
    """`msd train`, once by each port at which the team can meet; all but the first leave the model as it is."""
    model, written = out / MODEL_FOLDER, []
    for port in ports:
        # torchrun's own place still has the addresses of the team that met there.
        os.environ.update({"MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "False"})
        with pytest.raises(SystemExit, match="0"):
            main(["train", str(dataset), str(student), str(model), "--epochs", "1"])
        written.append((model / RECORD_FILE).stat().st_mtime_ns if rank == 0 else 0)
    assert len(set(written)) == 1


def write_what_is_trained(patch: pytest.MonkeyPatch, out: Path, rank: int) -> None:
    """Has `msd train` write the weights and the record of this process, too, as `RANK.safetensors` and `RANK.json`."""
    train = Training.train

    def kept(
        training: Training, variant: Variant, show: AbstractContextManager[Progress]
    ) -> tuple[TrainedNetwork, Features]:
        trained, features = train(training, variant, show)
        save_file(trained.model.state_dict(), out / f"{rank}.safetensors")
        (out / f"{rank}.json").write_text(trained.record.model_dump_json())
        return trained, features

    patch.setattr(Training, "train", kept)


def team_figures(team: Team) -> dict[str, list[float]]:
    """What is left of gradients of 1 and 2, and of one that the first process alone has; a mean of figures; a share."""
    weights = [torch.zeros(1, requires_grad=True), torch.zeros(2, 2, requires_grad=True), torch.zeros(1)]
    weights[0].grad = torch.full((1,), 1.0 + team.rank)
    weights[1].grad = torch.full((2, 2), 3.0) if team.leads else None
    team.average_gradients(weights)
    assert weights[0].grad is not None
    assert weights[1].grad is not None
    assert weights[2].grad is None
    means = [weights[0].grad.item(), *weights[1].grad.flatten().tolist(), team.mean(10.0 * team.rank)]
    return {"means": means, "share": team.share(np.arange(7)).tolist()}


if __name__ == "__main__":
    dataset_, student_, out_ = (Path(path) for path in sys.argv[1:4])
    with join_team(os.environ) as joined:
        (out_ / f"team-{joined.rank}.json").write_text(json.dumps(team_figures(joined)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(*TASTE)
        write_what_is_trained(patched, out_, joined.rank)
        train_by_command(dataset_, student_, out_, sys.argv[4:], joined.rank)
