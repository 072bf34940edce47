"""The parts of training: loss, measurements, lessons, the bag of words, and cached states of frozen layers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from msd.student.distill import DistillConfig, head_loss
from msd.student.encoder import encode_texts, new_student
from msd.student.lessons import BagOfWords, all_lessons, encode_targets, make_lessons, target_texts, teachers_words
from msd.student.progress import measure
from msd.student.record import HEADS, VECTOR_DIM, WORDS_DIM, StudentError, Vectors
from msd.student.states import TextStates
from msd.teachers.knowledge import Knowledge, KnowledgeBase
from tests.dataset.tiny import WORDS

TEXTS = ["Toy Story", "A spy film with gadgets", "beach hotel " * 40, "x"]


def _unit(rows: int, dim: int, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, dim), dim=1)


def _in_each_head(rows: int) -> Vectors:
    """Vectors of as many lessons, each of its own direction in every head."""
    vectors = np.zeros((rows, VECTOR_DIM), np.float32)
    for part in HEADS.values():
        vectors[np.arange(rows), part.start + np.arange(rows)] = 1
    return vectors


def _known(name: str, tags: tuple[str, ...] = ()) -> Knowledge:
    return Knowledge(id=name, explicit=f"Facts of {name}.", implicit=f"For friends of {name}.", tags=tags)


def test_loss_is_least_at_the_targets_and_separates_lessons() -> None:
    targets = _unit(16, 384, 0)
    config = DistillConfig()
    right, near, wrong = (
        float(head_loss(vectors, targets, config))
        for vectors in (
            targets,
            torch.nn.functional.normalize(targets + 0.5 * _unit(16, 384, 1), dim=1),
            targets.roll(1, dims=0),
        )
    )
    assert -1e-5 < right < near < wrong
    contrast = DistillConfig(cosine_weight=0.0)
    mean = torch.nn.functional.normalize(targets.mean(dim=0, keepdim=True), dim=1).expand(16, -1)
    assert float(head_loss(mean, targets, contrast)) > float(head_loss(targets, targets, contrast)) + 1


def test_recall_counts_the_own_target_among_all() -> None:
    targets = _in_each_head(20)
    perfect = measure(targets, targets, np.arange(20))
    assert list(perfect) == ["explicit", "implicit", "words"]
    assert perfect["words"] == perfect["explicit"]
    assert perfect["explicit"] == {"recall_1": 1.0, "recall_10": 1.0, "cosine": 1.0, "candidates": 20}
    swapped = targets.copy()
    swapped[[0, 1]] = targets[[1, 0]]
    found = measure(swapped, targets, np.arange(4))
    assert found["implicit"]["recall_1"] == 0.5
    assert found["implicit"]["cosine"] == 0.5
    same = np.repeat(_in_each_head(1), 30, axis=0)
    assert measure(same, same, np.arange(30))["explicit"]["recall_10"] == 0.0  # ties count against
    nothing = np.zeros((0, VECTOR_DIM), np.float32)
    assert measure(nothing, nothing, np.arange(0)) == {"explicit": {}, "implicit": {}, "words": {}}


def test_missing_knowledge_is_neither_measured_nor_a_candidate() -> None:
    targets = _in_each_head(20)
    targets[5:, HEADS["implicit"]] = 0
    targets[:, HEADS["words"]] = 0
    found = measure(_in_each_head(20), targets, np.arange(3, 9))
    assert found["explicit"]["candidates"] == 20
    assert found["implicit"] == {"recall_1": 1.0, "recall_10": 1.0, "cosine": 1.0, "candidates": 5}
    assert found["words"] == {}


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


def test_targets_are_the_plain_encodings_of_both_texts_or_zeros() -> None:
    student = new_student()
    knowledge = {"1": _known("1", ("funny", "short")), "2": _known("2")}
    knowledge |= {
        "3": Knowledge(id="3", explicit="A beach.", implicit=" "),
        "4": Knowledge(id="4", explicit=" ", implicit=" "),
    }
    lessons = make_lessons("items", dict.fromkeys(knowledge, "text"), knowledge, 0.0, 0)
    assert lessons.ids == ["1", "2", "3"]
    assert target_texts(lessons.knowledge)[0] == ["Facts of 1. funny, short", "Facts of 2.", "A beach."]
    assert teachers_words(lessons.knowledge)[0] == "Facts of 1. funny, short For friends of 1."
    seen: list[tuple[int, int]] = []
    targets = encode_targets(student, lessons, lambda name, done, total, note: seen.append((done, total)))
    assert seen == [(3, 5), (5, 5)]
    expected = encode_texts(student, ["Facts of 1. funny, short", "For friends of 2."], plain=True)
    np.testing.assert_allclose(targets[0, :384], expected[0], atol=1e-6)
    np.testing.assert_allclose(targets[1, 384:768], expected[1], atol=1e-6)
    assert targets[:, HEADS["implicit"]].any(axis=1).tolist() == [True, True, False]
    assert not targets[:, HEADS["words"]].any()


@pytest.mark.parametrize("frozen", [0, 4, 5, 6])
def test_cached_states_give_the_encoders_vectors(frozen: int) -> None:
    student = new_student()
    states = TextStates(student, TEXTS, frozen)
    expected = encode_texts(student, TEXTS)
    np.testing.assert_allclose(states.all_vectors(student), expected, atol=1e-6)
    with torch.no_grad():
        np.testing.assert_allclose(states.vectors(student, np.asarray([3, 0])), expected[[3, 0]], atol=1e-6)


TOPICS = list(WORDS.values())


def _texts(count: int, seed: int = 0) -> list[str]:
    """Texts of one topic each, in turn: three of its four words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.permutation(TOPICS[n % len(TOPICS)])[:3]) for n in range(count)]


def test_texts_of_one_topic_are_near() -> None:
    found = BagOfWords(_texts(120)).coordinates(_texts(60, seed=1))
    cosine, topic = found @ found.T, np.arange(60) % len(TOPICS)
    same = topic[:, None] == topic[None, :]
    assert cosine[same].min() > cosine[~same].max()


@pytest.mark.parametrize("count", [1, 2, 12, 120])
def test_coordinates_keep_the_similarity_of_words_and_are_reproducible(count: int) -> None:
    texts = _texts(count)
    bag = BagOfWords(texts)
    found = bag.coordinates(texts)
    assert np.array_equal(BagOfWords(texts).coordinates(texts), found)
    assert found.shape == (count, WORDS_DIM)
    assert found.dtype == np.float32
    assert not found[:, len(texts) :].any()
    counts = bag._counts.transform(texts)
    np.testing.assert_allclose(found @ found.T, (counts @ counts.T).toarray(), atol=1e-5)


def test_other_texts_are_placed_by_known_words() -> None:
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
