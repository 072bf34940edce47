"""Inputs of the reference model and their sizes. Does not know the model."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from msd.contract.schema import Side

Feeds = dict[str, NDArray[np.generic]]

SIDES: Mapping[str, Side] = {
    "user_fields": "user",
    "user_vector": "user",
    "history": "user",
    "history_mask": "user",
    "item_fields": "item",
    "item_vector": "item",
}


@dataclass(frozen=True)
class Sizes:
    """Widths of inputs and layers; the defaults are those of the reference model."""

    vector: int = 64
    fields: int = 10  # of each side
    vocabulary: int = 1_000
    embedding: int = 16
    history: int = 50
    attention: int = 36
    hidden: tuple[int, int, int] = (256, 128, 64)

    @property
    def side(self) -> int:
        """Width of one side: its fields' embeddings and its vector."""
        return self.fields * self.embedding + self.vector

    def shape(self, name: str, rows: int) -> tuple[int, ...]:
        """Return the shape of an input for a number of rows."""
        width = {
            "user_fields": (self.fields,),
            "user_vector": (self.vector,),
            "history": (self.history, self.vector),
            "history_mask": (self.history,),
            "item_fields": (self.fields,),
            "item_vector": (self.vector,),
        }[name]
        return (rows, *width)


def random_feeds(sizes: Sizes, candidates: int, seed: int) -> Feeds:
    """Return one request of any user and any candidates, by input; the last few places of the history are empty."""
    rng = np.random.default_rng(seed)
    feeds: Feeds = {}
    for name, side in SIDES.items():
        shape = sizes.shape(name, candidates if side == "item" else 1)
        if name.endswith("fields"):
            feeds[name] = rng.integers(0, sizes.vocabulary, shape, np.int32)
        elif name == "history_mask":
            feeds[name] = (np.arange(sizes.history) < max(1, sizes.history - 5)).astype(np.float32)[None]
        else:
            feeds[name] = rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(sizes.vector))
    return feeds


def tiled(feeds: Feeds) -> Feeds:
    """Return the request with the user's inputs repeated for every candidate, as tutorials send it."""
    candidates = max(len(value) for value in feeds.values())
    return {
        name: value if SIDES[name] == "item" else np.repeat(value, candidates, axis=0) for name, value in feeds.items()
    }
