"""Users, items, and clicks that follow a network's scores: requests of one user and several candidates, by a seed."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lab.reference.inputs import Feeds, Sizes
from lab.reference.network import ReferenceModel

Floats = NDArray[np.float32]
Integers = NDArray[np.int32]

_TOPICS = 24
_LIKED_TOPICS = 3


@dataclass(frozen=True)
class ReferenceItems:
    """The items, shared by all requests."""

    item_fields: Integers  # [I, F]
    item_vectors: Floats  # [I, D], of length 1
    item_topics: Integers  # [I]
    topics: Floats  # [K, D], of length 1


@dataclass(frozen=True)
class Clicks:
    """R requests of C candidates each."""

    catalogue: ReferenceItems
    user_fields: Integers  # [R, F]
    user_vectors: Floats  # [R, D]
    history: Integers  # [R, T], indices of items; -1 at the end if shorter
    candidates: Integers  # [R, C], indices of items
    clicked: Floats  # [R, C], 0 or 1

    def request(self, number: int) -> Feeds:
        """Return the inputs of one request: user [1, …], items [C, …]."""
        history, items = self.history[number : number + 1], self.candidates[number]
        present = history >= 0
        return {
            "user_fields": self.user_fields[number : number + 1],
            "user_vector": self.user_vectors[number : number + 1],
            "history": np.where(present[..., None], self.catalogue.item_vectors[history], np.float32(0)),
            "history_mask": present.astype(np.float32),
            "item_fields": self.catalogue.item_fields[items],
            "item_vector": self.catalogue.item_vectors[items],
        }


def new_catalogue(sizes: Sizes, items: int, seed: int) -> ReferenceItems:
    """Return items around topics, with fields whose first values are the most common."""
    rng = np.random.default_rng((seed, 0))
    topics = _unit(rng.standard_normal((_TOPICS, sizes.vector), np.float32))
    of_item = rng.integers(0, _TOPICS, items, np.int32)
    vectors = _unit(topics[of_item] + _noise(rng, items, sizes))
    return ReferenceItems(_values(rng, (items, sizes.fields), sizes.vocabulary), vectors, of_item, topics)


def new_clicks(network: ReferenceModel, catalogue: ReferenceItems, requests: int, candidates: int, seed: int) -> Clicks:
    """Return requests of users who like up to three topics; about half of the candidates are of these topics."""
    rng, sizes = np.random.default_rng((seed, 1)), network.sizes
    liked = rng.integers(0, _TOPICS, (requests, _LIKED_TOPICS))
    history = _of_topics(rng, catalogue, liked, sizes.history)
    lengths = rng.integers(1, sizes.history + 1, requests)
    offered = _of_topics(rng, catalogue, liked, candidates)
    anything = rng.integers(0, len(catalogue.item_topics), offered.shape, np.int32)
    clicks = Clicks(
        catalogue=catalogue,
        user_fields=_values(rng, (requests, sizes.fields), sizes.vocabulary),
        user_vectors=_unit(catalogue.topics[liked].sum(1) + _noise(rng, requests, sizes)),
        history=np.where(np.arange(sizes.history) < lengths[:, None], history, np.int32(-1)),
        candidates=np.where(rng.random(offered.shape) < 0.5, offered, anything),
        clicked=np.zeros(offered.shape, np.float32),
    )
    with torch.no_grad():
        for number in range(requests):
            feeds = clicks.request(number)
            chances = network(*(torch.from_numpy(feeds[name]) for name in network.inputs)).numpy()
            clicks.clicked[number] = rng.random(candidates) < chances
    return clicks


def _of_topics(rng: np.random.Generator, catalogue: ReferenceItems, liked: NDArray[np.int64], count: int) -> Integers:
    """Return `count` items [R, count] of each request's topics."""
    by_topic = [np.flatnonzero(catalogue.item_topics == topic).astype(np.int32) for topic in range(_TOPICS)]
    topics = rng.permuted(np.repeat(liked, -(-count // _LIKED_TOPICS), axis=1), axis=1)[:, :count]
    draws = rng.random(topics.shape)
    chosen = np.empty(topics.shape, np.int32)
    for topic, items in enumerate(by_topic):
        here = topics == topic
        chosen[here] = items[(draws[here] * len(items)).astype(np.int64)]
    return chosen


def _noise(rng: np.random.Generator, count: int, sizes: Sizes) -> Floats:
    return rng.standard_normal((count, sizes.vector), np.float32) / np.float32(np.sqrt(sizes.vector))


def _values(rng: np.random.Generator, shape: tuple[int, ...], vocabulary: int) -> Integers:
    return (vocabulary * rng.random(shape) ** 3).astype(np.int32)


def _unit(vectors: Floats) -> Floats:
    unit: Floats = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit
