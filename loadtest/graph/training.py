"""Trains the reference model on generated clicks, in half a minute, and keeps it in a folder until that changes.

It is measured on requests of users that it was not trained on.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch.nn import functional

from loadtest.graph.clicks import Clicks, new_catalogue, new_clicks
from loadtest.graph.inputs import Sizes
from loadtest.graph.network import Network, made
from msd.contract.errors import MsdError
from msd.contract.files import write_bytes_atomic
from msd.ranker.metrics import measure_pooled
from msd.step import fingerprint_of, is_done, mark_done

WEIGHTS = "reference.safetensors"
_FORMAT = 1


@dataclass(frozen=True)
class Training:
    """How much is generated, and how it is trained."""

    requests: int = 24_000
    candidates: int = 16
    batch: int = 512
    learning_rate: float = 3e-3
    held: int = 400  # requests that are measured on, with `held_candidates` each
    held_candidates: int = 100
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """The reference model, and requests of users that it has not seen: some to fit scales by, others to judge by."""

    network: Network
    known: Clicks
    held: Clicks


def trained_reference(folder: Path, sizes: Sizes, training: Training, progress: Callable[[int, int], None]) -> Trained:
    """The model in `folder`, trained first if it is not there. `progress` hears steps done and steps in all."""
    catalogue = new_catalogue(sizes, training.seed)
    held, known = (
        new_clicks(catalogue, sizes, training.held, training.held_candidates, training.seed + one) for one in (1, 2)
    )
    network = made("reference", sizes, training.seed)
    run = fingerprint_of(_FORMAT, asdict(sizes), asdict(training), torch.__version__)
    if is_done(folder, run):
        _load(network, folder / WEIGHTS)
    else:
        start = time.perf_counter()
        clicks = new_clicks(catalogue, sizes, training.requests, training.candidates, training.seed)
        with _one_thread():
            _train(network, clicks, training, progress)
        write_bytes_atomic(folder / WEIGHTS, save(network.state_dict()))
        mark_done(folder, run, time.perf_counter() - start)
    return Trained(network, known, held)


def quality(clicks: Clicks, scores: NDArray[np.float32]) -> dict[str, float]:
    """Metrics of scores [R, C] of all candidates."""
    return measure_pooled(clicks.clicked.ravel().astype(np.float64), scores.ravel().astype(np.float64))


def torch_scores(network: Network, clicks: Clicks) -> NDArray[np.float32]:
    """The first head's scores [R, C] by torch."""
    with torch.no_grad():
        return np.stack([_scores(network, clicks, number) for number in range(len(clicks.candidates))])


def _scores(network: Network, clicks: Clicks, number: int) -> NDArray[np.float32]:
    feeds = clicks.request(number)
    output = network(*(torch.from_numpy(feeds[name]) for name in network.inputs))
    scores: NDArray[np.float32] = (output if isinstance(output, torch.Tensor) else output[0]).numpy()
    return scores


def _train(network: Network, clicks: Clicks, training: Training, progress: Callable[[int, int], None]) -> None:
    """One pass over the rows in random order."""
    rows = np.random.default_rng(training.seed).permutation(clicks.candidates.size)
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
    """So that training ends the same on any number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _load(network: Network, path: Path) -> None:
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise MsdError(
            f"{path}: not the weights that were trained ({error}); delete the folder and run again"
        ) from None
