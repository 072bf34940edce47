"""Train MSD's network in several equal processes, by ordinary data parallelism: each takes its share of a batch's rows.

torchrun --nproc-per-node 2 examples/cluster/train.py DATA STUDENT MODEL [options of msd train]

Each process reads the dataset and writes features of its own; the first writes MODEL, which must be new: nothing is
resumed. Give each a GPU, or its share of the cores by OMP_NUM_THREADS.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import distributed
from torch.optim.optimizer import register_optimizer_step_pre_hook

from msd.__main__ import main
from msd.training import train

whole_loss = train.batch_loss


def shared_loss(model, features, rows, hiding):
    """Return the loss of this process's rows of a batch; of all rows if they are fewer than the processes."""
    mine = rows[distributed.get_rank() :: distributed.get_world_size()]
    return whole_loss(model, features, mine if len(mine) else rows, hiding)


def average_gradients(optimiser, *_):
    """Replace gradients by their mean over the processes; a missing one counts as zeros."""
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    found = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    flat = torch.cat([gradient.flatten() for gradient in found])
    distributed.all_reduce(flat)
    means = (flat / distributed.get_world_size()).split([weight.numel() for weight in weights])
    for weight, mean in zip(weights, means, strict=True):
        weight.grad = mean.view_as(weight)


dataset, student, out, *options = sys.argv[1:]
if os.environ["RANK"] == "0" and Path(out).exists():
    sys.exit(f"{out} is there already; name a new folder")
if torch.cuda.is_available():
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
train.batch_loss = shared_loss
register_optimizer_step_pre_hook(average_gradients)
with TemporaryDirectory() as scratch:
    model = Path(out) if distributed.get_rank() == 0 else Path(scratch) / "model"
    main(["train", dataset, student, str(model), *options])
