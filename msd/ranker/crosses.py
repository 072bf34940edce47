"""Crosses: a weight for each value of a field, and for each pair of values of two fields of different sides.

A logistic regression on such indicators is what ad platforms start from. How often the user saw this very item is a
field, too, and so are the item's themes, the nearest of a few centres of vectors, which say what its text is about.
`msd.training.train_crosses` finds the centres, chooses the crosses and fits their weights.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from msd.contract.schema import Bag, Categorical, FeatureSchema, Side
from msd.ranker.embedding import count_values, first_known, is_id
from msd.ranker.shared import dots

Cross = tuple[str, ...]
"""Names of one field, or of two of different sides; an item's field is the last."""
MOST_CELLS = 2**20  # of a cross; values beyond share them
_MOST_VALUES = 2**16
_MOST_COLUMNS = 64
_ASKING: tuple[Side, ...] = ("user", "context")
_SEEN_OFTEN = (0.5, 1.5, 2.5, 3.5, 5.5, 8.5, 13.5)  # impressions between which repeats differ
THEMES = (8, 32)
"""How many centres of items' vectors there are, by field: few for what few rows tell, more for what many do."""


def _of_item(name: str, buckets: int) -> Categorical:
    """Return a field of items that is made here. No field of a schema has its name."""
    return Categorical.model_construct(
        name=f"({name})", side="item", vocabulary=(), buckets=buckets, is_id=False, serving_value=None
    )


_REPEATS = _of_item("repeats", 2 * len(_SEEN_OFTEN) + 1)
_THEMES = tuple(_of_item(f"{count} themes", count) for count in THEMES)


@dataclass(frozen=True)
class Cells:
    """The weights of a cross: cell `left · values of the right field + right`.

    `left` is None for a single field. `sizes`: values of each field, after folding.
    """

    cross: Cross
    left: Categorical | Bag | None
    right: Categorical | Bag
    sizes: tuple[int, int]

    @classmethod
    def of(cls, schema: FeatureSchema, cross: Cross) -> "Cells":
        """Return the cells of a cross of the schema's fields."""
        fields = {field.name: field for side in (*_ASKING, "item") for field in (*schema.indexed(side), *_made(schema))}
        left, right = (fields[cross[0]] if len(cross) == 2 else None), fields[cross[-1]]
        size = min(right.size, _MOST_VALUES)
        return cls(cross, left, right, (1 if left is None else min(left.size, MOST_CELLS // size), size))

    @property
    def count(self) -> int:
        """Number of weights."""
        return self.sizes[0] * self.sizes[1]

    @property
    def width(self) -> int:
        """Cells of one row: several if a field is a bag."""
        return (1 if self.left is None else self.left.width) * self.right.width

    @property
    def bags(self) -> tuple[Bag, ...]:
        """The fields of several values, over which a row's weights are averaged."""
        return tuple(field for field in (self.left, self.right) if isinstance(field, Bag))


def possible_crosses(schema: FeatureSchema, themes: bool = True) -> list[Cross]:
    """Return all fields, those of themes if asked for, then all pairs of fields of different sides but user ID × item
    ID."""
    asking, items = (
        [field for side in _ASKING for field in schema.indexed(side)],
        [*schema.indexed("item"), *_made(schema, themes)],
    )
    pairs = [*product(asking, items), *product(schema.indexed("user"), schema.indexed("context"))]
    return [
        *((field.name,) for field in (*asking, *items)),
        *(
            (left.name, right.name)
            for left, right in pairs
            if not (is_id(left) and is_id(right)) and left.width * right.width <= _MOST_COLUMNS
        ),
    ]


class _Part(nn.Module):
    """Crosses whose last field is of the same side and that have the same bags, by the columns of G cells a row: those
    of their fields in the tensors, how many values of each are distinct and which is the least that counts, and how
    a cell follows from both."""

    left: Tensor
    right: Tensor
    stride: Tensor
    offset: Tensor
    sizes: Tensor
    least: Tensor

    def __init__(self, schema: FeatureSchema, placed: Sequence[tuple[Cells, int]]) -> None:
        super().__init__()
        self.placed, self.bags = placed, placed[0][0].bags
        self.of_item = placed[0][0].right.side == "item"
        self.folds = any(
            field is not None and field.size > size
            for cells, _ in placed
            for field, size in zip((cells.left, cells.right), cells.sizes, strict=True)
        )
        columns = [
            (
                left,
                right,
                cells.sizes[1] if cells.left else 0,
                offset,
                *cells.sizes,
                _least(cells.left),
                _least(cells.right),
            )
            for cells, offset in placed
            for left, right in product(_columns(schema, cells.left), _columns(schema, cells.right))
        ]
        table = torch.tensor(columns).T
        for name, value in zip(("left", "right"), table[:2], strict=True):
            self.register_buffer(name, value.contiguous(), persistent=False)
        # As the tensors' indices are: a runtime would otherwise convert these for each request.
        stride, offset, *sizes_and_least = table[2:].int()
        self.register_buffer("stride", stride, persistent=False)
        self.register_buffer("offset", offset, persistent=False)
        self.register_buffer("sizes", torch.stack(sizes_and_least[:2]), persistent=False)
        self.register_buffer("least", torch.stack(sizes_and_least[2:]), persistent=False)

    def forward(self, asking: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """Return the indices [1 or N, G] of the left and of the right fields."""
        sides = asking.index_select(1, self.left), (item if self.of_item else asking).index_select(1, self.right)
        if not self.folds:
            return sides
        left, right = (
            torch.where(index < size, index, 2 + (index - 2) % (size - 2).clamp(min=1))
            for index, size in zip(sides, self.sizes, strict=True)
        )
        return left, right


class Crosses(nn.Module):
    """A schema's indices to logits [N]: `base`, the `weights` of all cells, and the `centres` of themes, all buffers.

    What is made of an item's tensors stands behind its own columns: its repeats, then its themes.
    """

    weights: Tensor
    base: Tensor
    often: Tensor
    centres: Tensor

    def __init__(self, schema: FeatureSchema, crosses: Sequence[Cross]) -> None:
        super().__init__()
        self.schema, self.chosen, count = schema, tuple(crosses), 0
        parts: dict[tuple[bool, tuple[Bag, ...]], list[tuple[Cells, int]]] = {}
        for cells in (Cells.of(schema, cross) for cross in crosses):
            parts.setdefault((cells.right.side == "item", cells.bags), []).append((cells, count))
            count += cells.count
        self.placed = [one for placed in parts.values() for one in placed]
        crossed = [cells.right for cells, _ in self.placed]
        self.repeats, self.themes = _REPEATS in crossed, any(theme in crossed for theme in _THEMES)
        self.item_id = next(field for field in schema.indexed("item") if is_id(field))
        self.register_buffer("often", torch.tensor(_SEEN_OFTEN), persistent=False)
        self.parts = nn.ModuleList(_Part(schema, placed) for placed in parts.values())
        self.register_buffer("weights", torch.zeros(count))
        if self.themes:
            self.register_buffer("centres", torch.zeros(sum(THEMES), schema.semantic_width("item")))
        self.register_buffer("base", torch.zeros(1, 1))

    def forward(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return logits [N]. Tensors of user and context have batch 1 or N, those of candidates N."""
        asking, item = self._indices(tensors)
        total = self.base
        for part in self.parts:
            assert isinstance(part, _Part)
            left, right = part(asking, item)
            cells_NG = (left * part.stride + part.offset) + right
            weights_NG = nn.functional.embedding(cells_NG, self.weights.unsqueeze(-1)).squeeze(-1)
            # Runtimes multiply by ones several times faster than they sum.
            value_N1 = weights_NG @ weights_NG.new_ones(len(part.left), 1)
            for bag in part.bags:
                value_N1 = value_N1 / count_values(tensors[f"{bag.side}_categorical"][:, self.schema.columns[bag.name]])
            total = total + value_N1
        return total[:, 0]

    def cells(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[Cells, int, Tensor]]:
        """Yield each cross's cells, where in `weights` they begin, and those [N, width] of each row, from there;
        −1 where an ID is unknown or a bag has no more values. All tensors have batch N."""
        asking, item = self._indices(tensors)
        for part in self.parts:
            assert isinstance(part, _Part)
            left, right = part(asking, item)
            is_known = (left >= part.least[0]) & (right >= part.least[1])
            found, start = torch.where(is_known, left * part.stride + right, -1), 0
            for cells, offset in part.placed:
                yield cells, offset, found[:, start : start + cells.width]
                start += cells.width

    def _indices(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the indices of user and context together [1 or N, C], and those of items [N, C]."""
        asking = [tensors[name] for side in _ASKING if (name := f"{side}_categorical") in tensors]
        item = [tensors["item_categorical"]]
        if self.repeats or self.themes:
            item.append(self._repeats(tensors) if self.repeats else torch.zeros_like(item[0][:, :1]))
        if self.themes:
            item.append(self._themes(tensors["item_semantic"]).to(item[0].dtype))
        return torch.cat(asking, 1), torch.cat(item, 1)

    def _themes(self, vectors_ND: Tensor) -> Tensor:
        """Return each item's themes [N, fields]: the nearest centre of each field from 1, or 0 if the origin is nearer,
        as it is to an item without a vector."""
        near_NC = vectors_ND @ self.centres.T - 0.5 * self.centres.square().sum(1)
        origin_N1 = torch.zeros_like(near_NC[:, :1])
        return torch.stack(
            [torch.cat([origin_N1, near], 1).argmax(1) for near in torch.split(near_NC, list(THEMES), 1)], 1
        )

    def _repeats(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return how often the user's history has the item [N, 1], in steps, and whether it was clicked there."""
        column = self.schema.columns[self.item_id.name].start
        target_N1, held_BL = (
            tensors["item_categorical"][:, column : column + 1],
            tensors["history_categorical"][..., column],
        )
        same_NL = ((target_N1 == held_BL) & (target_N1 >= first_known(self.item_id))).float()
        shown_BL1, clicked_BL1, _, _ = torch.split(tensors["history_outcomes"], 1, -1)
        shown_N1, clicked_N1 = (dots(same_NL, of_BL1[..., 0]) for of_BL1 in (shown_BL1, clicked_BL1))
        steps_N1 = (shown_N1 > self.often).sum(1, keepdim=True)
        return (steps_N1 + (len(self.often) + 1) * (clicked_N1 > 0)).to(target_N1.dtype)


def _made(schema: FeatureSchema, themes: bool = True) -> tuple[Categorical, ...]:
    """Return the fields that are made of an item's tensors."""
    return (_REPEATS, *(_THEMES if themes and schema.semantic_width("item") else ()))


def _columns(schema: FeatureSchema, field: Categorical | Bag | None) -> range:
    """Return the field's columns among those of its side; the context's are behind the user's, and what is made of an
    item's tensors is behind its own."""
    if field is None:
        return range(1)
    if field in (made := (_REPEATS, *_THEMES)):
        place = schema.categorical_width("item") + made.index(field)
        return range(place, place + 1)
    columns = schema.columns[field.name]
    behind = schema.categorical_width("user") if field.side == "context" else 0
    return range(columns.start + behind, columns.stop + behind)


def _least(field: Categorical | Bag | None) -> int:
    """Return the least index that counts: not of unknown IDs, nor of the places behind a bag's values."""
    if field is None:
        return 0
    return first_known(field) if is_id(field) else int(isinstance(field, Bag))
