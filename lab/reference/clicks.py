"""Generated clicks with known true probabilities: requests of one user and several candidates, by a seed.

The logit of a click is a sum of four parts: a constant; an effect of each value of each field; the fit of user and item
(a scaled product of their vectors, and for each field a product of numbers of the user's and the item's value); and the
similarity of the item to the *most* similar item of the user's history. Knows no model.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lab.reference.inputs import Feeds, Sizes

Floats = NDArray[np.float32]
Integers = NDArray[np.int32]

ITEMS = 4_000
_TOPICS = 24
_LIKED_TOPICS = 3
_CONSTANT, _FIELDS, _FIT, _FIT_OF_FIELDS, _HISTORY = -3.4, 0.25, 1.4, 0.35, 3.2


@dataclass(frozen=True)
class ReferenceItems:
    """The items and the effects of fields, shared by all requests."""

    item_fields: Integers  # [I, F]
    item_vectors: Floats  # [I, D], of length 1
    item_topics: Integers  # [I]
    topics: Floats  # [K, D], of length 1
    effects: Floats  # [2, F, V]: effect of a value of a user's and of an item's field
    factors: Floats  # [2, F, V, 2]: numbers whose product is the effect of a user's with an item's value


@dataclass(frozen=True)
class Clicks:
    """R requests of C candidates each."""

    catalogue: ReferenceItems
    user_fields: Integers  # [R, F]
    user_vectors: Floats  # [R, D]
    history: Integers  # [R, T], indices of items; -1 at the end if shorter
    candidates: Integers  # [R, C], indices of items
    chances: Floats  # [R, C], the true probabilities
    clicked: Floats  # [R, C], 0 or 1

    def request(self, number: int) -> Feeds:
        """Return the inputs of one request: user [1, …], items [C, …]."""
        return self.rows(np.array([number]), self.candidates[number])

    def requests(self) -> Iterator[Feeds]:
        """Return the inputs of each request."""
        return (self.request(number) for number in range(len(self.candidates)))

    def rows(self, requests: NDArray[np.integer], items: Integers) -> Feeds:
        """Return the inputs of some users, by request, and of some items, one row each."""
        history, catalogue = self.history[requests], self.catalogue
        present = history >= 0
        return {
            "user_fields": self.user_fields[requests],
            "user_vector": self.user_vectors[requests],
            "history": np.where(present[..., None], catalogue.item_vectors[history], np.float32(0)),
            "history_mask": present.astype(np.float32),
            "item_fields": catalogue.item_fields[items],
            "item_vector": catalogue.item_vectors[items],
        }


def new_catalogue(sizes: Sizes, seed: int, items: int = ITEMS) -> ReferenceItems:
    """Return items around topics, with fields whose first values are the most common. Whatever the number of items, the
    first 4,000 and the effects are the same."""
    rng = np.random.default_rng((seed, 0))
    topics = _unit(rng.standard_normal((_TOPICS, sizes.vector), np.float32))
    first = _new_items(rng, sizes, topics, ITEMS)
    effects, factors = (
        rng.standard_normal((2, sizes.fields, sizes.vocabulary, *more), np.float32) for more in ((), (2,))
    )
    further = _new_items(rng, sizes, topics, max(0, items - ITEMS))
    fields, vectors, of_item = (np.concatenate(both) for both in zip(first, further, strict=True))
    return ReferenceItems(fields, vectors, of_item, topics, effects, factors)


def _new_items(rng: np.random.Generator, sizes: Sizes, topics: Floats, count: int) -> tuple[Integers, Floats, Integers]:
    """Return fields, vectors and topics of some items."""
    of_item = rng.integers(0, _TOPICS, count, np.int32)
    noise = rng.standard_normal((count, sizes.vector), np.float32) / np.float32(np.sqrt(sizes.vector))
    return _values(rng, (count, sizes.fields), sizes.vocabulary), _unit(topics[of_item] + noise), of_item


def new_clicks(catalogue: ReferenceItems, sizes: Sizes, requests: int, candidates: int, seed: int) -> Clicks:
    """Return requests of users who like up to three topics; about half of the candidates are of these topics."""
    rng = np.random.default_rng((seed, 1))
    liked = rng.integers(0, _TOPICS, (requests, _LIKED_TOPICS))
    history = _of_topics(rng, catalogue, liked, sizes.history)
    lengths = rng.integers(1, sizes.history + 1, requests)
    offered = _of_topics(rng, catalogue, liked, candidates)
    anything = rng.integers(0, len(catalogue.item_topics), offered.shape, np.int32)
    noise = rng.standard_normal((requests, sizes.vector), np.float32) / np.float32(np.sqrt(sizes.vector))
    clicks = Clicks(
        catalogue=catalogue,
        user_fields=_values(rng, (requests, sizes.fields), sizes.vocabulary),
        user_vectors=_unit(catalogue.topics[liked].sum(1) + noise),
        history=np.where(np.arange(sizes.history) < lengths[:, None], history, np.int32(-1)),
        candidates=np.where(rng.random(offered.shape) < 0.5, offered, anything),
        chances=np.zeros(offered.shape, np.float32),
        clicked=np.zeros(offered.shape, np.float32),
    )
    for number in range(requests):
        clicks.chances[number] = _chances(clicks, number)
    clicks.clicked[:] = rng.random(offered.shape) < clicks.chances
    return clicks


def _chances(clicks: Clicks, number: int) -> Floats:
    """Return the true probabilities [C] of one request."""
    catalogue, items = clicks.catalogue, clicks.candidates[number]
    vectors, user, fields = catalogue.item_vectors[items], clicks.user_fields[number], catalogue.item_fields[items]
    places = np.arange(len(user))
    history = clicks.history[number]
    alike = (vectors @ catalogue.item_vectors[history[history >= 0]].T).max(1)
    logits = (
        _CONSTANT
        + _FIELDS * (catalogue.effects[0, places, user].sum() + catalogue.effects[1, places, fields].sum(1))
        + _FIT * vectors @ clicks.user_vectors[number]
        + _FIT_OF_FIELDS * (catalogue.factors[0, places, user] * catalogue.factors[1, places, fields]).sum((1, 2)) / 2
        + _HISTORY * alike
    )
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


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


def _values(rng: np.random.Generator, shape: tuple[int, ...], vocabulary: int) -> Integers:
    return (vocabulary * rng.random(shape) ** 3).astype(np.int32)


def _unit(vectors: Floats) -> Floats:
    unit: Floats = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit
