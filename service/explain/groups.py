"""Which part of a request's tensors belongs to which group of knowledge, and the tensors without some of the groups.

What is left out is as it is for a user and an item of which nothing is known. Knows tensors; does not know scores.
"""

from collections.abc import Collection
from typing import Literal, NamedTuple, get_args

import numpy as np

from msd.contract.assemble import Tensors, assemble
from msd.contract.request import CheckedRequest
from msd.contract.rows import RowCodec
from msd.contract.schema import SIDES, Categorical, FeatureSchema, Side

Group = Literal["semantic", "id", "dense", "history"]
GROUPS: tuple[Group, ...] = get_args(Group)
_HISTORY = ("history_mask", "history_categorical", "history_semantic")


class _Part(NamedTuple):
    """Columns of a tensor's last axis, which are there only with all of these groups."""

    tensor: str
    columns: slice
    groups: frozenset[Group]


class Knowledge:
    """The tensors of one request, taken apart into groups."""

    def __init__(self, schema: FeatureSchema, tensors: Tensors, nothing: Tensors) -> None:
        """`nothing` is what `unknown` gives."""
        self._tensors, self._nothing = tensors, nothing
        self._parts = [part for part in _parts(schema) if part.tensor in tensors]
        self._history = [name for name in _HISTORY if name in tensors]

    @property
    def groups(self) -> tuple[Group, ...]:
        """Those of which the request has anything."""
        there = {group for part in self._parts if self._says_something(part) for group in part.groups}
        return tuple(group for group in GROUPS if group in there)

    def of(self, groups: Collection[Group]) -> Tensors:
        """The tensors with these groups alone."""
        mixed = {name: tensor.copy() for name, tensor in self._tensors.items()}
        for part in self._parts:
            if not part.groups <= set(groups):
                mixed[part.tensor][..., part.columns] = self._nothing[part.tensor][..., part.columns]
        return mixed

    def without_clicked(self, place: int) -> Tensors:
        """The tensors without the item at this place of the history; those behind it move up."""
        mixed = dict(self._tensors)
        for name in self._history:
            whole = self._tensors[name]
            mixed[name] = np.concatenate([np.delete(whole, place, axis=1), np.zeros_like(whole[:, :1])], axis=1)
        return mixed

    def _says_something(self, part: _Part) -> bool:
        own, nothing = self._tensors[part.tensor], self._nothing[part.tensor]
        return not np.array_equal(own[..., part.columns], np.broadcast_to(nothing, own.shape)[..., part.columns])


def unknown(schema: FeatureSchema, user: RowCodec, item: RowCodec, at: float) -> Tensors:
    """Of an unknown user in an unknown context, and one unknown item."""
    request = CheckedRequest(user_id="", ids=[""])
    return assemble(schema, request, at, user.unpack([None]), item.unpack([None])).tensors


def _parts(schema: FeatureSchema) -> list[_Part]:
    parts = []
    for side in SIDES:
        parts += [_Part(f"{side}_categorical", columns, groups) for columns, groups in _categorical(schema, side)]
        width = schema.dense_width(side)
        # The last of the dense columns says whether there is a vector.
        dense = width - bool(schema.semantic(side))
        parts += [
            _Part(f"{side}_dense", slice(0, dense), frozenset({"dense"})),
            _Part(f"{side}_dense", slice(dense, width), frozenset({"semantic"})),
            _Part(f"{side}_semantic", slice(None), frozenset({"semantic"})),
        ]
    parts += [
        _Part("history_categorical", columns, groups | {"history"}) for columns, groups in _categorical(schema, "item")
    ]
    parts += [
        _Part("history_semantic", slice(None), frozenset({"semantic", "history"})),
        _Part("history_mask", slice(None), frozenset({"history"})),
    ]
    return parts


def _categorical(schema: FeatureSchema, side: Side) -> list[tuple[slice, frozenset[Group]]]:
    return [
        (schema.columns[field.name], frozenset({"id" if isinstance(field, Categorical) and field.is_id else "dense"}))
        for field in schema.indexed(side)
    ]
