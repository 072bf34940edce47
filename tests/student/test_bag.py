"""The bag tells apart what is said in other words, and takes few texts, few words and none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.student.lessons import BagOfWords
from msd.student.record import WORDS_DIM
from tests.dataset.tiny import WORDS

TOPICS = list(WORDS.values())


def _texts(count: int, seed: int = 0) -> list[str]:
    """Texts of one topic each, in turn: three of its four words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.permutation(TOPICS[n % len(TOPICS)])[:3]) for n in range(count)]


def test_texts_of_one_topic_are_near_and_of_two_are_far() -> None:
    found = BagOfWords(_texts(120)).coordinates(_texts(60, seed=1))
    cosine, topic = found @ found.T, np.arange(60) % len(TOPICS)
    same = topic[:, None] == topic[None, :]
    assert cosine[same].min() > cosine[~same].max()


def test_coordinates_keep_the_likeness_of_the_words_where_there_is_room() -> None:
    texts = _texts(120)
    bag = BagOfWords(texts)
    found = bag.coordinates(texts)
    counts = bag._counts.transform(texts)
    np.testing.assert_allclose(found @ found.T, (counts @ counts.T).toarray(), atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 12, 300])
def test_coordinates_are_unit_vectors_however_few_texts_there_are(count: int) -> None:
    texts = _texts(count)
    found = BagOfWords(texts).coordinates(texts)
    assert found.shape == (count, WORDS_DIM)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)
    assert not found[:, len(texts) :].any()


def test_other_texts_are_placed_by_the_words_that_are_known() -> None:
    bag = BagOfWords(_texts(120))
    known, mixed, other, unknown, empty = bag.coordinates(["beach hotel", "beach zebra hotel", "choir", "zebra", ""])
    assert known @ mixed > 0.5 > known @ other
    assert not unknown.any()
    assert not empty.any()
    assert bag.coordinates([]).shape == (0, WORDS_DIM)


@pytest.mark.parametrize("texts", [[], [""] * 20, ["the and of"] * 20, ["?!", "☕"]])
def test_texts_without_a_word_give_zeros(texts: list[str]) -> None:
    assert not BagOfWords(texts).coordinates([*texts, "beach hotel"]).any()


@given(texts=st.lists(st.text(max_size=30), max_size=12))
def test_any_texts_give_unit_vectors_or_zeros(texts: list[str]) -> None:
    length = np.linalg.norm(BagOfWords(texts).coordinates(texts), axis=1)
    assert np.all((length < 1e-6) | (np.abs(length - 1) < 1e-5))


def test_the_same_texts_give_the_same_bits() -> None:
    texts = _texts(200)
    assert np.array_equal(BagOfWords(texts).coordinates(texts), BagOfWords(texts).coordinates(texts))
