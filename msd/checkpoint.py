"""Checkpoints of interrupted training: weights, optimiser and a record in one safetensors file, no pickle."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.optim import Optimizer

from msd.contract.files import write_bytes_atomic

Weights = Mapping[str, Tensor]
_OPTIMISER = "optimiser"


@dataclass(frozen=True)
class Checkpoint:
    """Saved state: the caller's record, as text, and groups of weights by name."""

    record: str
    groups: dict[str, dict[str, Tensor]]


def save_checkpoint(path: Path, run: str, record: str, groups: Mapping[str, Weights], optimiser: Optimizer) -> None:
    """Replace the checkpoint atomically; `run` names the inputs and options that it belongs to."""
    tensors = {f"{group}/{name}": value for group, weights in groups.items() for name, value in weights.items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"{_OPTIMISER}/{index}/{name}": value for name, value in state.items()}
    detached = {name: value.detach().contiguous() for name, value in tensors.items()}
    write_bytes_atomic(path, save(detached, {"run": run, "record": record}))


def load_checkpoint(path: Path, run: str, optimiser: Optimizer) -> Checkpoint | None:
    """Restore the optimiser and return the rest; None if there is no checkpoint of this run.

    A checkpoint only saves time: an unreadable one counts as none.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("run") != run:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError):
        return None
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        group, _, rest = name.partition("/")
        groups.setdefault(group, {})[rest] = value
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in groups.pop(_OPTIMISER, {}).items():
        index, _, rest = name.partition("/")
        state.setdefault(int(index), {})[rest] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return Checkpoint(metadata["record"], groups)
