"""Columns of a regression: an indicator of each value of each field, and of each pair of values that are crossed.

A number is its decile; an item's text is the words that many texts have. Values that no training row has are left out.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse  # type: ignore[import-untyped]

from lab.worlds.law import Ints
from msd.contract.schema import Categorical, Side
from msd.dataset.load import Dataset
from msd.ranker.features import Features, SideFeatures

_WORDS = 200
_DECILES = np.linspace(0, 1, 11)[1:-1]
_WORD = re.compile(r"[a-z]{3,}")
_ITEM_ID = "item_id"


class Field(NamedTuple):
    """The values of a field: codes [n, k] of each entity, or of each event for a context field; −1 is no value."""

    name: str
    side: Side
    codes: Ints

    def of(self, features: Features, rows: Ints) -> Ints:
        """Return the codes [len(rows), k] of events."""
        sides = {"user": features.user, "item": features.item}
        place = rows if self.side == "context" else sides[self.side].rows.numpy()[rows]
        return np.asarray(self.codes[place], np.int64)


def fields_of(data: Dataset, features: Features, trained: Ints) -> list[Field]:
    """Return all fields of a dataset, those of the item's text included. `trained`: the rows that give the deciles."""
    found = [_words(data, features)] if data.config.items.text else []
    schema = features.schema
    for name, side in (("user", features.user), ("item", features.item), ("context", None)):
        of: Side = name  # type: ignore[assignment]
        codes = side.entities.categorical if side else features.context_categorical.numpy()
        for field in schema.indexed(of):
            values = codes[:, schema.columns[field.name]].astype(np.int64)
            # 0 is missing, which is a value of a category, but only padding of a bag.
            empty = -1 if isinstance(field, Categorical) else 0
            found.append(Field(field.name, of, np.where(values == empty, -1, values)))
        numbers = side.entities.numeric if side else features.context_dense.numpy()
        seen = side.rows.numpy()[trained] if side else trained
        for number in schema.numerics(of):
            value, is_missing = numbers[:, schema.columns[number.name]].T
            cuts = np.quantile(value[seen], _DECILES)
            decile = np.where(is_missing > 0, len(_DECILES) + 1, np.searchsorted(cuts, value))
            found.append(Field(number.name, of, decile[:, None].astype(np.int64)))
    return found


def crosses_of(fields: Sequence[Field]) -> list[tuple[Field, Field]]:
    """Return each pair of a field of user or context, IDs included, and a field of the item but its ID."""
    items = [field for field in fields if field.side == "item" and field.name != _ITEM_ID]
    return [(asking, item) for asking in fields if asking.side != "item" for item in items]


class Design:
    """The columns that some fields and crosses have in the `trained` rows."""

    def __init__(
        self, features: Features, fields: Sequence[Field], crosses: Sequence[tuple[Field, Field]], trained: Ints
    ) -> None:
        self._parts: list[tuple[Field, ...]] = [*((field,) for field in fields), *crosses]
        self._values = [np.unique(codes[codes >= 0]) for codes in map(_crossed, self._codes(features, trained))]
        self.width = sum(map(len, self._values))

    def __call__(self, features: Features, rows: Ints) -> sparse.csr_matrix:
        """Return the indicators [len(rows), width]."""
        columns, places, start = [], [], 0
        for values, codes in zip(self._values, map(_crossed, self._codes(features, rows)), strict=True):
            at = np.minimum(np.searchsorted(values, codes), max(len(values) - 1, 0))
            known = (codes >= 0) & (values[at] == codes if len(values) else False)
            row, slot = np.nonzero(known)
            columns.append(start + at[row, slot])
            places.append(row)
            start += len(values)
        row, column = np.concatenate(places), np.concatenate(columns)
        return sparse.csr_matrix((np.ones(len(row)), (row, column)), shape=(len(rows), self.width))

    def _codes(self, features: Features, rows: Ints) -> list[list[Ints]]:
        return [[field.of(features, rows) for field in part] for part in self._parts]


def _crossed(parts: list[Ints]) -> Ints:
    """Return one code per combination of values [n, k · l], −1 where either has none."""
    first, *others = parts
    for other in others:
        both = (first[:, :, None] << 32) | np.maximum(other[:, None, :], 0)
        first = np.where((first[:, :, None] < 0) | (other[:, None, :] < 0), -1, both).reshape(len(first), -1)
    return first


def _words(data: Dataset, features: Features) -> Field:
    """Return the words of the items' texts, of the most frequent ones that at least two texts have."""
    items = data.items.filter(data.items["text"].is_not_null())
    texts = {
        name: sorted(set(_WORD.findall(text.lower()))) for name, text in items.select("item_id", "text").iter_rows()
    }
    counted = Counter(word for words in texts.values() for word in words)
    # A word of every text tells nothing.
    usable = [word for word, count in counted.most_common() if 2 <= count < len(texts)][:_WORDS]
    place = {word: number for number, word in enumerate(usable)}
    held = [[place[word] for word in texts.get(name, ()) if word in place] for name in features.item.entities.ids]
    codes = np.full((len(held) + 1, max(1, *map(len, held))), -1, np.int64)
    for row, known in enumerate(held):
        codes[row, : len(known)] = known
    return Field("words", "item", codes)


def live_columns(features: Features, rows: Ints) -> tuple[NDArray[np.float32], list[int]]:
    """Return inputs [len(rows), C] of trees: live counts, numbers, bags as indicators and categories as codes; and
    which columns are categories. No IDs, and no presence of vectors."""
    parts = [features.context_dense.numpy()[rows]]
    categories: list[int] = []

    def add(values: NDArray[np.int32], field: object) -> None:
        if isinstance(field, Categorical):
            categories.append(sum(part.shape[1] for part in parts))
            parts.append(values.astype(np.float32))
        else:
            marks = np.zeros((len(values), field.size), np.float32)  # type: ignore[attr-defined]
            np.put_along_axis(marks, values.astype(np.int64), 1.0, axis=1)
            parts.append(marks[:, 1:])

    for field in features.schema.indexed("context"):
        add(features.context_categorical.numpy()[rows][:, features.schema.columns[field.name]], field)
    sides: tuple[SideFeatures, ...] = (features.user, features.item)
    for side in sides:
        parts.append(side.dense.numpy()[rows])
        for field in features.schema.indexed(side.entities.side):
            if not (isinstance(field, Categorical) and field.is_id):
                own = side.entities.categorical[:, features.schema.columns[field.name]]
                add(own[side.rows.numpy()[rows]], field)
    return np.concatenate(parts, axis=1), categories
