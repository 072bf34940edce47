"""Whether a graph takes what the schema gives and gives the heads that the manifest names, whoever loaded it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from msd.contract.bundle import MERGED_RANKER, RANKER, Bundle
from msd.contract.errors import BundleError
from msd.contract.merge import REQUEST_OF
from msd.contract.schema import FeatureSchema, TensorSpec

_RESERVED_HEADS = ("id", "ecpm")
_MOST_REQUESTS = 16


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
        raise BundleError(f"the first head of the bundle is {heads[0]!r}; it has to be 'pctr'")
    for head in heads:
        if head in _RESERVED_HEADS or heads.count(head) > 1:
            raise BundleError(f"the bundle's head {head!r} would be a column of that name twice in a reply")
    return list(heads)


def check_graph(bundle: Bundle, form: GraphForm, inputs: Sequence[GraphInput], outputs: Sequence[str]) -> list[str]:
    """The heads. Raises BundleError, naming the input or output, when a graph does not fit the manifest."""
    path, heads, specs = bundle.path(form.file), checked_heads(bundle.manifest.heads), form.inputs(bundle.schema)
    by_name = {one.name: one for one in inputs}
    wanted = {spec.name for spec in specs}
    if by_name.keys() != wanted:
        raise BundleError(f"{path}: has the inputs {sorted(by_name)}, the schema gives {sorted(wanted)}")
    for spec in specs:
        _check_input(path, spec, by_name[spec.name], form.requests)
    if missing := [head for head in heads if head not in outputs]:
        raise BundleError(f"{path}: has no output {missing[0]!r}; it gives: {', '.join(outputs)}")
    return heads


def _check_input(path: Path, spec: TensorSpec, found: GraphInput, requests: int) -> None:
    if found.dtype != spec.dtype:
        raise BundleError(f"{path}: input {spec.name} is a {found.dtype}, the schema gives {spec.dtype}")
    if found.shape[1:] != spec.shape:
        raise BundleError(f"{path}: input {spec.name} has rows of {found.shape[1:]}, the schema {list(spec.shape)}")
    if found.shape[0] is not None and (spec.side == "item" or requests > 1):
        many = "candidates" if spec.side == "item" else "requests"
        raise BundleError(f"{path}: input {spec.name} takes {found.shape[0]} {many} only, not any number")
