"""Training of networks on generated clicks, half a minute each; kept in folders until something changes.

Networks are measured on requests of users that they were not trained on.
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

from lab.reference.clicks import Clicks, new_catalogue, new_clicks
from lab.reference.inputs import Sizes
from lab.reference.network import ReferenceNetwork, made
from msd.contract.errors import MsdError
from msd.contract.files import write_bytes_atomic
from msd.metrics import measure_pooled
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
    held: int = 400  # requests to measure on, with `held_candidates` each
    held_candidates: int = 100
    seed: int = 0


@dataclass(frozen=True)
class TrainedReference:
    """The reference model, and requests of users it has not seen: some to fit scales, others to judge by."""

    network: ReferenceNetwork
    known: Clicks
    held: Clicks


def trained_reference(work: Path, sizes: Sizes, training: ReferenceTraining, progress: Progress) -> TrainedReference:
    """Return the model of the training's own seed, and clicks to judge it by."""
    known, held = (new_held(sizes, training, training.held, training.held_candidates, one) for one in (2, 1))
    return TrainedReference(trained("reference", training.seed, work, sizes, training, progress), known, held)


def new_held(sizes: Sizes, training: ReferenceTraining, requests: int, candidates: int, number: int) -> Clicks:
    """Return clicks of users that no network was trained on; each `number` from 1 gives others."""
    return new_clicks(new_catalogue(sizes, training.seed), sizes, requests, candidates, training.seed + number)


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


def quality(clicks: Clicks, scores: NDArray[np.float32]) -> dict[str, float]:
    """Return metrics of scores [R, C] of all candidates."""
    return measure_pooled(clicks.clicked.ravel().astype(np.float64), scores.ravel().astype(np.float64))


def torch_scores(network: ReferenceNetwork, clicks: Clicks) -> NDArray[np.float32]:
    """Return the first head's scores [R, C] by torch."""
    with torch.no_grad():
        return np.stack([_scores(network, clicks, number) for number in range(len(clicks.candidates))])


def _scores(network: ReferenceNetwork, clicks: Clicks, number: int) -> NDArray[np.float32]:
    feeds = clicks.request(number)
    output = network(*(torch.from_numpy(feeds[name]) for name in network.inputs))
    scores: NDArray[np.float32] = (output if isinstance(output, torch.Tensor) else output[0]).numpy()
    return scores


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
