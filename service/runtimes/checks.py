"""Whether a graph takes what the schema gives and gives the heads that the manifest names, whoever loaded it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from msd.contract.errors import BundleError
from msd.contract.schema import TensorSpec

_RESERVED_HEADS = ("id", "ecpm")


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


def check_graph(
    path: Path, specs: Sequence[TensorSpec], heads: Sequence[str], inputs: Sequence[GraphInput], outputs: Sequence[str]
) -> None:
    """Raises BundleError, naming the input or output, when the graph at `path` does not fit schema and heads."""
    by_name = {one.name: one for one in inputs}
    wanted = {spec.name for spec in specs}
    if by_name.keys() != wanted:
        raise BundleError(f"{path}: has the inputs {sorted(by_name)}, the schema gives {sorted(wanted)}")
    for spec in specs:
        _check_input(path, spec, by_name[spec.name])
    if missing := [head for head in heads if head not in outputs]:
        raise BundleError(f"{path}: has no output {missing[0]!r}; it gives: {', '.join(outputs)}")


def _check_input(path: Path, spec: TensorSpec, found: GraphInput) -> None:
    if found.dtype != spec.dtype:
        raise BundleError(f"{path}: input {spec.name} is a {found.dtype}, the schema gives {spec.dtype}")
    if found.shape[1:] != spec.shape:
        raise BundleError(f"{path}: input {spec.name} has rows of {found.shape[1:]}, the schema {list(spec.shape)}")
    if spec.side == "item" and found.shape[0] is not None:
        raise BundleError(f"{path}: input {spec.name} takes {found.shape[0]} candidates only, not any number")
