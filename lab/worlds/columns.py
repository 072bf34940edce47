"""Inputs of rivals: the words of items' texts, as a field, and live counts with fields, for trees."""

import re
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from lab.worlds.law import Ints
from msd.contract.schema import Categorical
from msd.dataset.load import Dataset
from msd.ranker.features import Features, SideFeatures

_WORDS = 200
_WORD = re.compile(r"[a-z]{3,}")


def word_codes(data: Dataset, features: Features) -> NDArray[np.int32]:
    """Return the words [E, W] of each event's item, of the most frequent ones that at least two texts have; −1 where a
    text has fewer."""
    items = data.items.filter(data.items["text"].is_not_null())
    texts = {
        name: sorted(set(_WORD.findall(text.lower()))) for name, text in items.select("item_id", "text").iter_rows()
    }
    counted = Counter(word for words in texts.values() for word in words)
    # A word of every text tells nothing.
    usable = [word for word, count in counted.most_common() if 2 <= count < len(texts)][:_WORDS]
    place = {word: number for number, word in enumerate(usable)}
    held = [[place[word] for word in texts.get(name, ()) if word in place] for name in features.item.entities.ids]
    codes = np.full((len(held) + 1, max(1, *map(len, held))), -1, np.int32)
    for row, known in enumerate(held):
        codes[row, : len(known)] = known
    return np.asarray(codes[features.item.rows.numpy()], np.int32)


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
