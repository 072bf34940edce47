"""Training that can go on where it was stopped: a module's and its optimiser's tensors in one safetensors file."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from msd.contract.files import write_bytes_atomic

_RECORD = "record"


def save_checkpoint(path: Path, modules: dict[str, Module], optimiser: Optimizer, record: dict[str, Any]) -> None:
    """Writes the modules' and the optimiser's state, and a JSON record, in one step."""
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"{name}/{key}": value.contiguous() for key, value in module.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{index}/{key}": value.contiguous() for key, value in state.items()}
    write_bytes_atomic(path, save(tensors, {_RECORD: json.dumps(record)}))


def load_checkpoint(
    path: Path, modules: dict[str, Module], optimiser: Optimizer, identity: dict[str, Any]
) -> dict[str, Any] | None:
    """Restores what `save_checkpoint` wrote and returns its record; None if there is nothing usable to go on from.

    A record counts only if it holds all of `identity`: another seed or other data starts afresh.
    """
    try:
        with safe_open(path, "pt") as file:
            record: dict[str, Any] = json.loads((file.metadata() or {}).get(_RECORD, "{}"))
            if any(record.get(key) != value for key, value in identity.items()):
                return None
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, SafetensorError, ValueError):
        return None
    for name, module in modules.items():
        module.load_state_dict(_below(tensors, f"{name}/"))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _below(tensors, "optimiser/").items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return record


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
