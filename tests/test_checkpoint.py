"""Resumed training ends like an uninterrupted one; without a usable checkpoint it starts anew."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from msd.checkpoint import load_checkpoint, save_checkpoint

RUN = "inputs and options"


class Training:
    """Two modules and an optimiser, from one seed."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.modules: dict[str, nn.Module] = {
            "body": nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)),
            "head": nn.Linear(4, 1),
        }
        parameters = [parameter for module in self.modules.values() for parameter in module.parameters()]
        self.optimiser = torch.optim.AdamW(parameters, lr=0.1)

    def step(self, number: int) -> None:
        """One step on the data of that number."""
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
        loss = (self.modules["head"](self.modules["body"](x)) - x.sum(1, keepdim=True)).square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """All weights and buffers by module and name."""
        return {name: module.state_dict() for name, module in self.modules.items()}

    def save(self, path: Path, record: str = "") -> None:
        """Writes a checkpoint of the run `RUN`."""
        save_checkpoint(path, RUN, record, self.weights(), self.optimiser)

    def load(self, path: Path, run: str = RUN) -> str | None:
        """Goes on from a checkpoint, and gives its record."""
        found = load_checkpoint(path, run, self.optimiser)
        for name, weights in (found.groups if found else {}).items():
            self.modules[name].load_state_dict(weights)
        return found.record if found else None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A checkpoint after one step."""
    training = Training()
    training.step(0)
    training.save(tmp_path / "checkpoint", "epoch 7")
    return tmp_path / "checkpoint"


def test_resumed_training_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = Training()
    for number in range(6):
        whole.step(number)
        if number == 2:
            whole.save(tmp_path / "checkpoint", f"epoch {number}")

    resumed = Training()
    assert resumed.load(tmp_path / "checkpoint") == "epoch 2"
    for number in range(3, 6):
        resumed.step(number)

    torch.testing.assert_close(resumed.weights(), whole.weights(), rtol=0, atol=0)


def test_checkpoint_of_another_run_is_ignored(path: Path) -> None:
    training = Training()

    assert training.load(path, "other inputs") is None
    assert training.optimiser.state_dict()["state"] == {}
    training.save(path)
    assert Training().load(path) == ""


def test_unreadable_checkpoint_is_ignored(path: Path) -> None:
    whole = path.read_bytes()

    assert Training().load(path.parent / "nowhere") is None
    assert Training().load(path.parent) is None
    for content in (b"", b"\0" * 100, whole[:50], whole[:-1], b"\xff" * 8 + whole[8:]):
        path.write_bytes(content)
        assert Training().load(path) is None
    for metadata in (None, {"record": "epoch 7"}):
        save_file({"a": torch.zeros(1)}, path, metadata)
        assert Training().load(path) is None


def test_failed_write_leaves_the_old_checkpoint(path: Path) -> None:
    record: Any = 7  # A record has to be text.
    with pytest.raises(TypeError):
        Training().save(path, record)

    assert Training().load(path) == "epoch 7"
    assert list(path.parent.iterdir()) == [path]
