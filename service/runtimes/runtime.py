"""What a runtime offers: one run of a ranker and what it says of itself; and whether a graph fits its bundle.

Knows tensors and heads. Does not know requests, rows or queues, nor any one runtime.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from msd.contract.assemble import Tensors
from msd.contract.bundle import MERGED_RANKER, RANKER, Bundle, tolerance_key
from msd.contract.errors import BundleError, MsdError
from msd.contract.merge import REQUEST_OF
from msd.contract.schema import FeatureSchema, TensorSpec

Scores = dict[str, NDArray[np.float32]]
_RESERVED_HEADS = ("id", "ecpm")
_MOST_REQUESTS = 16


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


class GraphForm(NamedTuple):
    """One of a bundle's graphs: its file, what it takes beside the schema's tensors, and how many requests' users."""

    file: str
    further: tuple[TensorSpec, ...]
    requests: int

    def inputs(self, schema: FeatureSchema) -> tuple[TensorSpec, ...]:
        """All that it takes."""
        return (*schema.tensors, *self.further)


ALONE = GraphForm(RANKER, (), 1)
TOGETHER = GraphForm(MERGED_RANKER, (REQUEST_OF,), _MOST_REQUESTS)


class GraphInput(NamedTuple):
    """An input as the graph has it: its type in the schema's words where it has one, and None for an axis of any
    length."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


def checked_heads(heads: Sequence[str]) -> list[str]:
    """The heads. Raises BundleError when they cannot be the columns of a reply."""
    if heads[0] != "pctr":
        raise BundleError(f"the first head of the bundle is {heads[0]!r}; it must be 'pctr'")
    for head in heads:
        if head in _RESERVED_HEADS or heads.count(head) > 1:
            raise BundleError(f"the bundle's head {head!r} clashes with a reply column of that name")
    return list(heads)


def check_graph(bundle: Bundle, form: GraphForm, inputs: Sequence[GraphInput], outputs: Sequence[str]) -> list[str]:
    """The heads. Raises BundleError, naming the input or output, when a graph does not fit the manifest."""
    path, heads, specs = bundle.path(form.file), checked_heads(bundle.manifest.heads), form.inputs(bundle.schema)
    by_name = {one.name: one for one in inputs}
    wanted = {spec.name for spec in specs}
    if by_name.keys() != wanted:
        raise BundleError(f"{path}: has the inputs {sorted(by_name)}, but the schema expects {sorted(wanted)}")
    for spec in specs:
        _check_input(path, spec, by_name[spec.name], form.requests)
    if missing := [head for head in heads if head not in outputs]:
        raise BundleError(f"{path}: has no output {missing[0]!r}; it has: {', '.join(outputs)}")
    return heads


def _check_input(path: Path, spec: TensorSpec, found: GraphInput, requests: int) -> None:
    if found.dtype != spec.dtype:
        raise BundleError(f"{path}: input {spec.name} has type {found.dtype}, but the schema expects {spec.dtype}")
    if found.shape[1:] != spec.shape:
        raise BundleError(f"{path}: input {spec.name} has rows of {found.shape[1:]}, expected {list(spec.shape)}")
    if found.shape[0] is not None and (spec.side == "item" or requests > 1):
        many = "candidates" if spec.side == "item" else "requests"
        raise BundleError(f"{path}: input {spec.name} takes {found.shape[0]} {many}; its first axis must be dynamic")
