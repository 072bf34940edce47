"""The interface of runtimes: one run of a ranker, and a description of the engine; and the check of a graph against its
bundle.

Knows tensors and heads. Does not know requests, rows or queues, nor any particular runtime.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from msd.contract.bundle import RANKER, Bundle, tolerance_key
from msd.contract.errors import BundleError, MsdError
from msd.contract.schema import TensorSpec
from msd.contract.tensors import Tensors
from msd.contract.uncertainty import COLUMN
from native import core

Scores = dict[str, NDArray[np.float32]]
_RESERVED_HEADS = ("id", "ecpm", COLUMN)


class RuntimeRefused(MsdError):
    """The requested runtime, provider or precision is not the one that would run."""


@dataclass(frozen=True)
class Engine:
    """The engine that runs the model, as read back after loading."""

    name: str
    version: str
    provider: str
    threads: int
    precision: str
    instructions: tuple[str, ...]
    """CPU instructions for matrix products; empty on another provider."""
    device: str = ""
    """The GPU's name; empty on a CPU."""

    @property
    def key(self) -> str:
        """Names runtime, provider and precision in the manifest's tolerances."""
        return tolerance_key(self.name, self.provider, self.precision)


class Runtime(Protocol):
    """A loaded ranker. Any thread may run it, and several at once."""

    engine: Engine

    @property
    def native(self) -> "core.OrtModel | None":
        """The model in the native core's form; None if it is run by `run` alone."""
        ...

    def run(self, tensors: Tensors, is_aside: bool = False) -> Scores:
        """The schema's tensors → scores [N] by head, the first head first. `is_aside`: at low priority, for what
        requests should not wait for."""
        ...

    def warm_up_sizes(self, max_candidates: int) -> Sequence[int]:
        """Return the numbers of candidates to warm up, so that no request of up to `max_candidates` pays for it."""
        ...


class GraphInput(NamedTuple):
    """A graph's input: its type in the schema's terms if it has one, and None for an axis of any length."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


def checked_heads(heads: Sequence[str]) -> list[str]:
    """Return the heads. Raises BundleError if they cannot be the columns of a reply."""
    if heads[0] != "pctr":
        raise BundleError(f"the first head of the bundle is {heads[0]!r}; it must be 'pctr'")
    for head in heads:
        if head in _RESERVED_HEADS or heads.count(head) > 1:
            raise BundleError(f"the bundle's head {head!r} clashes with a reply column of that name")
    return list(heads)


def check_graph(bundle: Bundle, inputs: Sequence[GraphInput], outputs: Sequence[str]) -> list[str]:
    """Return the heads. Raises BundleError, naming the input or output, if a graph does not fit the manifest."""
    path, heads, specs = bundle.path(RANKER), checked_heads(bundle.manifest.heads), bundle.schema.tensors
    by_name = {given.name: given for given in inputs}
    wanted = {spec.name for spec in specs}
    if by_name.keys() != wanted:
        raise BundleError(f"{path}: has the inputs {sorted(by_name)}, but the schema expects {sorted(wanted)}")
    for spec in specs:
        _check_input(path, spec, by_name[spec.name])
    if missing := [head for head in heads if head not in outputs]:
        raise BundleError(f"{path}: has no output {missing[0]!r}; it has: {', '.join(outputs)}")
    return heads


def _check_input(path: Path, spec: TensorSpec, found: GraphInput) -> None:
    if found.dtype != spec.dtype:
        raise BundleError(f"{path}: input {spec.name} has type {found.dtype}, but the schema expects {spec.dtype}")
    if found.shape[1:] != spec.shape:
        raise BundleError(f"{path}: input {spec.name} has rows of {found.shape[1:]}, expected {list(spec.shape)}")
    if found.shape[0] is not None and spec.side == "item":
        raise BundleError(
            f"{path}: input {spec.name} takes {found.shape[0]} candidates; its first axis must be dynamic"
        )
