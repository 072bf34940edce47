"""The parts of distilling: the fit of the words head, measurements, lessons, and the bag of words."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from msd.contract.words import BagOfWords, WordsError
from msd.ranker.adaptor import Adaptor
from msd.student.distill import fit_words, measure
from msd.student.lessons import all_lessons, fit_bag, make_lessons
from msd.student.record import HEADS, MEANING_DIM, VECTOR_DIM, WORDS_DIM, StudentError, Vectors
from msd.teachers.knowledge import Knowledge, KnowledgeBase
from tests.dataset.tiny import WORDS
from tests.student.small import small_student


def _unit(rows: int, dim: int, seed: int) -> Vectors:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _known(name: str, tags: tuple[str, ...] = ()) -> Knowledge:
    return Knowledge(id=name, explicit=f"Facts of {name}.", implicit=f"For friends of {name}.", tags=tags)


def test_fitted_head_finds_words_that_follow_from_the_meaning() -> None:
    student, meaning = small_student(["a text"]), _unit(400, MEANING_DIM, 0)
    mapping = np.random.default_rng(1).standard_normal((MEANING_DIM, WORDS_DIM)).astype(np.float32)
    words = meaning @ mapping
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    taught = words.copy()
    taught[300:] = 0.0  # not taught
    fit_words(student, meaning, taught, 0.01)
    found = student.words_of(meaning)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)
    own = (found * words).sum(axis=1)
    assert own[:300].min() > 0.98
    assert own[300:].mean() > 0.7
    fit_words(student, meaning, np.zeros_like(taught), 0.01)
    assert np.array_equal(student.words_of(meaning), found)


def test_cosine_is_the_mean_with_the_own_words_and_missing_ones_do_not_count() -> None:
    targets = np.eye(20, WORDS_DIM, dtype=np.float32)
    swapped = targets.copy()
    swapped[[0, 1]] = targets[[1, 0]]
    assert measure(targets, targets, np.arange(20)) == {"cosine": 1.0}
    assert measure(swapped, targets, np.arange(4)) == {"cosine": 0.5}
    targets[5:] = 0
    assert measure(swapped, targets, np.arange(1, 9)) == {"cosine": 0.75}
    assert measure(swapped, targets, np.arange(5, 9)) == {}


@given(count=st.integers(0, 40), known=st.sets(st.integers(0, 60), max_size=40), seed=st.integers(0, 5))
def test_lessons_pair_each_text_with_its_own_knowledge(count: int, known: set[int], seed: int) -> None:
    texts = {str(n): f"text {n}" if n % 5 else "  " for n in range(count)}
    lessons = make_lessons("items", texts, {str(n): _known(str(n)) for n in known}, 0.1, seed)
    assert lessons.ids == [str(n) for n in range(count) if n % 5 and n in known]
    assert lessons.texts == [texts[id_] for id_ in lessons.ids]
    assert lessons.ids == [entry.id for entry in lessons.knowledge]
    assert lessons.held.sum() == round(0.1 * len(lessons.ids))


def test_seed_sets_held_out_lessons_and_too_few_items_are_rejected() -> None:
    knowledge = {str(n): _known(str(n)) for n in range(50)}
    texts = dict.fromkeys(knowledge, "text")
    first, same, other = (make_lessons("items", texts, knowledge, 0.1, seed).held for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    base = KnowledgeBase({str(n): knowledge[str(n)] for n in range(9)}, {})
    with pytest.raises(StudentError, match="only 9 items"):
        all_lessons([texts, {}], base, 0.1, 0)


TOPICS = list(WORDS.values())


def _texts(count: int, seed: int = 0) -> list[str]:
    """Texts of one topic each, in turn: three of its four words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.permutation(TOPICS[n % len(TOPICS)])[:3]) for n in range(count)]


@pytest.mark.parametrize("count", [1, 2, 12, 120])
def test_coordinates_keep_the_similarity_of_words_and_are_reproducible(count: int) -> None:
    texts = _texts(count)
    bag = fit_bag(texts)
    found = bag.coordinates(texts)
    assert np.array_equal(fit_bag(texts).coordinates(texts), found)
    assert found.shape == (count, WORDS_DIM)
    assert found.dtype == np.float32
    assert not found[:, len(texts) :].any()
    counts = _vectorizer(bag).fit_transform(texts)
    np.testing.assert_allclose(found @ found.T, (counts @ counts.T).toarray(), atol=1e-5)


def test_other_texts_are_placed_by_known_words() -> None:
    bag = fit_bag(_texts(120))
    known, mixed, other, unknown, empty = bag.coordinates(["beach hotel", "beach zebra hotel", "choir", "zebra", ""])
    assert known @ mixed > 0.5 > known @ other
    assert not unknown.any()
    assert not empty.any()
    assert bag.coordinates([]).shape == (0, WORDS_DIM)


WORDS_OF_TEXTS = st.sampled_from(
    ["the", "The", "not", "b", "İstanbul", "straße", "naïve", "x_1", "é", "日本語", "42", "a"]
)
TEXTS = st.lists(st.lists(WORDS_OF_TEXTS | st.text(max_size=4), max_size=9).map(" ".join), max_size=12)


@given(texts=TEXTS, others=TEXTS)
def test_terms_and_coordinates_are_those_of_scikit_learn(texts: list[str], others: list[str]) -> None:
    bag = fit_bag(texts)
    read = BagOfWords.unpack(bag.pack(), "words.bin")
    assert read.terms == bag.terms
    found = read.coordinates([*texts, *others])
    assert np.array_equal(found, bag.coordinates([*texts, *others]))
    length = np.linalg.norm(found, axis=1)
    assert np.all((length < 1e-6) | (np.abs(length - 1) < 1e-5))
    if not bag.terms:
        return
    theirs = _vectorizer(bag)
    analyse = theirs.build_analyzer()
    for text in others:
        assert read.terms_of(text) == list(analyse(text))
    due = theirs.fit(texts).transform([*texts, *others]) @ bag.directions
    # A vector that is nearly zero has no direction but that of rounding.
    clear = np.linalg.norm(due, axis=1) > 1e-5
    np.testing.assert_allclose(found[clear], due[clear] / np.linalg.norm(due[clear], axis=1, keepdims=True), atol=1e-6)


def _vectorizer(bag: BagOfWords) -> TfidfVectorizer:
    return TfidfVectorizer(vocabulary=bag.terms, sublinear_tf=True, stop_words="english", ngram_range=(1, 2))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: b"", "not a file of words"),
        (lambda content: content[:-4], "bytes of numbers, not"),
        (lambda content: content[:-4] + b"\xff" * 4, "not finite"),
        (lambda content: content.replace(b'"format": 1', b'"format": 2'), "format: should be 1"),
    ],
)
def test_damaged_file_of_words_is_refused(damage: Callable[[bytes], bytes], reason: str) -> None:
    with pytest.raises(WordsError, match=f"words.bin: .*{reason}"):
        BagOfWords.unpack(damage(fit_bag(_texts(12)).pack()), "words.bin")


def test_block_is_the_adaptors() -> None:
    torch.manual_seed(3)
    adaptor, vectors = Adaptor(VECTOR_DIM, 24), _unit(50, VECTOR_DIM, 0)
    adaptor.start_at(torch.from_numpy(vectors))
    bag = adaptor.of_words(fit_bag(_texts(12)))
    coordinates = vectors[:, HEADS["words"]]
    found = bag.block(coordinates)
    np.testing.assert_allclose(found, adaptor(torch.from_numpy(vectors)).detach()[:, 12:], atol=1e-5)
    # Alone or together, to the bit.
    assert all(np.array_equal(bag.block(coordinates[[row]])[0], found[row]) for row in range(50))
