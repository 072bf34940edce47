"""A training run cut short goes on where it was: weights, optimiser and progress in one safetensors file, no pickle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from msd.contract.files import write_bytes_atomic
from msd.student.measure import Figures

Stage = Literal["search", "catalogue", "done"]
Weights = dict[str, Tensor]


class Epoch(BaseModel):
    """What one pass measured; `held_out_loss` is None once nothing is held out."""

    model_config = ConfigDict(frozen=True)

    stage: Stage
    epoch: int
    loss: float
    held_out_loss: float | None


class Progress(BaseModel):
    """Where a run is: `epoch` passes of `stage` are done. `best_epoch` is of the search, 0 being before training."""

    model_config = ConfigDict(frozen=True)

    stage: Stage = "search"
    epoch: int = 0
    steps: int = 0
    best_epoch: int = 0
    best_loss: float
    history: tuple[Epoch, ...] = ()
    figures: dict[str, Figures] = {}


def save_checkpoint(
    path: Path,
    run: str,
    progress: Progress,
    weights: Mapping[str, Tensor],
    best: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
) -> None:
    """Replaces the checkpoint in one step; `run` names the inputs and options that it belongs to."""
    tensors = {f"weights/{name}": value.detach() for name, value in weights.items()}
    tensors |= {f"best/{name}": value for name, value in best.items()}
    for name, value in weights.items():
        for moment in ("exp_avg", "exp_avg_sq"):
            if value in optimiser.state:
                tensors[f"{moment}/{name}"] = optimiser.state[value][moment]
    data = save(
        {name: value.contiguous() for name, value in tensors.items()},
        {"run": run, "progress": progress.model_dump_json()},
    )
    write_bytes_atomic(path, data)


def load_checkpoint(
    path: Path, run: str, weights: Mapping[str, Tensor], optimiser: torch.optim.Optimizer
) -> tuple[Progress, Weights] | None:
    """Puts weights and optimiser back and returns progress and the best weights; None if there is none of this run."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if metadata.get("run") != run:
            return None
        progress = Progress.model_validate_json(metadata["progress"])
        with torch.no_grad():
            for name, value in weights.items():
                value.copy_(tensors[f"weights/{name}"])
                if progress.steps:
                    optimiser.state[value] = {
                        "step": torch.tensor(float(progress.steps)),
                        **{moment: tensors[f"{moment}/{name}"] for moment in ("exp_avg", "exp_avg_sq")},
                    }
        return progress, {name: tensors[f"best/{name}"] for name in weights}
    except (SafetensorError, ValidationError, KeyError):
        # A checkpoint only saves time: one that cannot be read is as good as none.
        return None
