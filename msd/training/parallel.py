"""Data-parallel training in processes started by `torchrun`. Knows gradients, weights and figures, not models."""

import datetime
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from msd.contract.errors import MsdError

_PATIENCE = datetime.timedelta(minutes=30)


class TeamError(MsdError):
    """The training processes cannot find each other, their number is wrong, or they do not share a folder."""


@dataclass(frozen=True)
class Team:
    """One of `size` equal processes, and its device. In a team of one, the methods below have no effect."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def leads(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def share(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return this process's share of rows, which all processes must have in the same order. Shares have equal
        length; the remainder is left out."""
        return rows[: len(rows) // self.size * self.size][self.rank :: self.size]

    def average_gradients(self, weights: Iterable[Tensor]) -> None:
        """Replace the gradients by their mean over the team; a missing gradient counts as zeros.

        DistributedDataParallel does not fit: it requires a module that takes tensors, but a step here reads a dataset's
        features. The weights fit in one message.
        """
        if self.size == 1:
            return
        held = [weight for weight in weights if weight.requires_grad]
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in held]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        means = torch.split(flat / self.size, [weight.numel() for weight in held])
        for weight, mean in zip(held, means, strict=True):
            weight.grad = mean.view_as(weight)

    def align(self, weights: Iterable[Tensor]) -> None:
        """Copy the first process's weights to every process."""
        if self.size > 1:
            for weight in weights:
                distributed.broadcast(weight.data, 0)

    def mean(self, figure: float) -> float:
        """Return the mean of all processes' figures, bit-identical in each, so that all make the same decision."""
        if self.size == 1:
            return figure
        total = torch.tensor(figure, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return float(total) / self.size


ALONE = Team()


@contextmanager
def join_team(environment: Mapping[str, str]) -> Iterator[Team]:
    """Join `torchrun`'s team, read from the environment; without one, yield a team of one, on a GPU if available.

    On GPUs the processes communicate by NCCL, one GPU each, otherwise by Gloo. Raises TeamError.
    """
    if "WORLD_SIZE" not in environment:
        yield Team(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        return
    rank, size, local = (_number(environment, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if not 0 <= rank < size:
        raise TeamError(f"RANK={rank} is not one of WORLD_SIZE={size} processes; start them with `torchrun`")
    device = _device(local)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise TeamError(f"the {size} processes cannot find each other ({error}); start them with `torchrun`") from None
    try:
        yield Team(rank, size, device)
    finally:
        distributed.destroy_process_group()


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise TeamError(
            f"LOCAL_RANK={local_rank}, but this machine has {torch.cuda.device_count()} GPUs; "
            "give `torchrun --nproc-per-node` at most as many"
        )
    return torch.device("cuda", local_rank)


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except KeyError:
        raise TeamError(f"WORLD_SIZE is set, {name} is not; start the processes with `torchrun`") from None
    except ValueError:
        raise TeamError(f"{name}={environment[name]!r} is not a number; start the processes with `torchrun`") from None
