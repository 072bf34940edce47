"""Training of networks on generated clicks, half a minute each; kept in folders until something changes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch.nn import functional

from lab.reference.clicks import Clicks, new_catalogue, new_clicks
from lab.reference.inputs import Sizes
from lab.reference.network import ReferenceNetwork, made
from msd.contract.errors import MsdError
from msd.contract.files import write_bytes_atomic
from msd.step import fingerprint_of, is_done, mark_done

_FORMAT = 2

Progress = Callable[[int, int], None]
"""Gets the steps done and their total."""


@dataclass(frozen=True)
class ReferenceTraining:
    """Amount of generated data, and training settings."""

    requests: int = 24_000
    candidates: int = 16
    batch: int = 512
    learning_rate: float = 3e-3
    seed: int = 0


def trained(
    name: str, seed: int, work: Path, sizes: Sizes, training: ReferenceTraining, progress: Progress
) -> ReferenceNetwork:
    """Return a network from its own folder under `work`, trained first if missing.

    `seed` sets its initial weights and the order of its rows. The clicks are those of `training`, whatever the seed.
    """
    network = made(name, sizes, seed)
    weights = weights_of(work, name, seed)
    run = fingerprint_of(_FORMAT, name, seed, asdict(sizes), asdict(training), torch.__version__)
    if is_done(weights.parent, run):
        _load(network, weights)
        return network
    start = time.perf_counter()
    catalogue = new_catalogue(sizes, training.seed)
    clicks = new_clicks(catalogue, sizes, training.requests, training.candidates, training.seed)
    with _one_thread():
        _train(network, clicks, training, seed, progress)
    write_bytes_atomic(weights, save(network.state_dict()))
    mark_done(weights.parent, run, time.perf_counter() - start)
    return network


def weights_of(work: Path, name: str, seed: int) -> Path:
    """Return the path of a network's weights, in a folder of their own."""
    return work / f"{name}-{seed}" / "weights.safetensors"


def _train(
    network: ReferenceNetwork, clicks: Clicks, training: ReferenceTraining, seed: int, progress: Progress
) -> None:
    """Train for one pass over the rows in random order."""
    rows = np.random.default_rng(seed).permutation(clicks.candidates.size)
    steps = np.array_split(rows, max(1, len(rows) // training.batch))
    optimiser = torch.optim.Adam(network.parameters(), lr=training.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, training.learning_rate, total_steps=len(steps) + 1)
    network.train()
    network.tiled = True
    for step, chosen in enumerate(steps):
        requests, places = np.divmod(chosen, clicks.candidates.shape[1])
        feeds = clicks.rows(requests, clicks.candidates[requests, places])
        scores = network(*(torch.from_numpy(feeds[name]) for name in network.inputs))
        loss = functional.binary_cross_entropy(scores, torch.from_numpy(clicks.clicked[requests, places]))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        progress(step + 1, len(steps))
    network.tiled = False
    network.eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit torch to one thread, so that training ends the same on any number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _load(network: ReferenceNetwork, path: Path) -> None:
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise MsdError(
            f"{path}: not the weights that were trained ({error}); delete the folder and run again"
        ) from None
