"""What a runtime offers: one run of a bundle's ranker, and what it says of itself.

Knows tensors and heads. Does not know requests, rows or queues, nor any one runtime.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from msd.contract.assemble import Tensors
from msd.contract.bundle import tolerance_key
from msd.contract.errors import MsdError

Scores = dict[str, NDArray[np.float32]]


class RuntimeRefused(MsdError):
    """The runtime, provider or precision asked for is not the one that would run."""


@dataclass(frozen=True)
class Engine:
    """What runs the model, as it was read back after loading."""

    name: str
    version: str
    provider: str
    threads: int
    precision: str
    instructions: tuple[str, ...]
    """Of the CPU, those that its matrix products may use; empty on another provider."""
    device: str = ""
    """The name of the card; empty on a CPU."""
    graphs: bool = False
    """Whether runs are captured as CUDA graphs."""

    @property
    def key(self) -> str:
        """Names runtime, provider and precision in the manifest's tolerances."""
        return tolerance_key(self.name, self.provider, self.precision)


class Runtime(Protocol):
    """A loaded ranker. Any thread may run it, and several at once."""

    engine: Engine

    def run(self, tensors: Tensors) -> Scores:
        """The schema's tensors → scores [N] by head, the first head first."""
        ...

    def warm_up_sizes(self, max_candidates: int) -> Sequence[int]:
        """The numbers of candidates to run once each, so that no request of `max_candidates` or fewer pays for it."""
        ...
