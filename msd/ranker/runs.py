"""Training rows in an order in which some of one user, or of one item, stand together."""

import numpy as np
from numpy.typing import NDArray


def random_runs(entities: NDArray[np.int32], longest: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Places of all rows, whose entities are given, in random runs of up to `longest` rows of one entity each."""
    order = np.lexsort((rng.random(len(entities)), entities))
    held = entities[order]
    starts = np.flatnonzero(np.append(True, held[1:] != held[:-1]))
    within = np.arange(len(held)) - np.repeat(starts, np.diff(np.append(starts, len(held))))
    runs = np.split(order, np.flatnonzero(within % longest == 0)[1:])
    return [runs[at] for at in rng.permutation(len(runs))]
