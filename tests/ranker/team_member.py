"""One process of a team, as `torchrun` starts it: trains and tunes on tiny data, and writes what came out.

It then runs the command, which joins the team by itself.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from msd.__main__ import main
from msd.dataset.load import load_dataset
from msd.ranker.features import build_features
from msd.ranker.folder import RECORD_FILE
from msd.ranker.parallel import Team, join_team
from msd.ranker.schema_fit import fit_schema
from msd.ranker.train import train_ranker
from msd.student.vectors import load_vectors
from tests.ranker.made import QUICK, SMALL, quiet
from tests.ranker.tuned import TUNE, Untuned

MODEL_FOLDER = "model"
TRAINING, TUNING = replace(QUICK, epochs=2), replace(TUNE, epochs=1)


def train(untuned: Untuned, team: Team, out: Path) -> None:
    """Trains, tunes, and writes weights and curves as `RANK.safetensors` and `RANK.json`."""
    features = untuned.features
    ranker, curve = train_ranker(features, SMALL, TRAINING, out / "checkpoint.safetensors", "team", quiet, team)
    student = untuned.student()
    tuned = replace(untuned, ranker=ranker).tune(out / "tuning.safetensors", TUNING, student, team=team)
    weights = {f"ranker/{name}": value for name, value in tuned.ranker.state_dict().items()}
    weights |= {f"student/{name}": value for name, value in student.state_dict().items()}
    save_file(weights, out / f"{team.rank}.safetensors")
    figures = {"curve": curve, "tuning": tuned.curve, "means": _means(team), "share": team.share(np.arange(7)).tolist()}
    (out / f"{team.rank}.json").write_text(json.dumps(figures))


def train_by_command(dataset: Path, student: Path, model: Path, ports: Sequence[str], *, leads: bool) -> None:
    """`msd train`, once by each port at which the team can meet; all but the first leave the model as it is."""
    line, written = ["train", str(dataset), str(student), str(model), "--epochs", "1"], []
    for port in ports:
        # torchrun's own place still has the addresses of the team that met there.
        os.environ.update({"MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "False"})
        with pytest.raises(SystemExit, match="0"):
            main(line)
        written.append((model / RECORD_FILE).stat().st_mtime_ns if leads else 0)
    assert len(set(written)) == 1


def _means(team: Team) -> list[float]:
    """What is left of gradients of 1 and 2, and of one that the first process alone has; and a mean of figures."""
    weights = [torch.zeros(1, requires_grad=True), torch.zeros(2, 2, requires_grad=True), torch.zeros(1)]
    weights[0].grad = torch.full((1,), 1.0 + team.rank)
    weights[1].grad = torch.full((2, 2), 3.0) if team.leads else None
    team.average_gradients(weights)
    assert weights[0].grad is not None
    assert weights[1].grad is not None
    assert weights[2].grad is None
    return [weights[0].grad.item(), *weights[1].grad.flatten().tolist(), team.mean(10.0 * team.rank)]


def untuned_from(dataset: Path, student: Path) -> Untuned:
    """What is trained on: features with a small student's vectors; the ranker is yet to come."""
    data, vectors = load_dataset(dataset), load_vectors(student)
    features = build_features(data, fit_schema(data), vectors)
    return Untuned(data, student, vectors, features, ranker=None)  # type: ignore[arg-type]


if __name__ == "__main__":
    dataset_, student_, out = (Path(one) for one in sys.argv[1:4])
    with join_team(os.environ) as joined:
        train(untuned_from(dataset_, student_), joined, out)
    train_by_command(dataset_, student_, out / MODEL_FOLDER, sys.argv[4:], leads=joined.leads)
