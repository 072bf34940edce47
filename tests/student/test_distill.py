"""The parts of training: the loss, the figures, the lessons, and states that stand in for frozen layers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from msd.student.distill import DistillConfig, head_loss
from msd.student.encoder import encode_texts, new_student
from msd.student.lessons import all_lessons, encode_targets, make_lessons, target_texts, teachers_words
from msd.student.progress import measure
from msd.student.record import HEADS, VECTOR_DIM, StudentError, Vectors
from msd.student.states import TextStates
from msd.teachers.knowledge import Knowledge, KnowledgeBase

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


def test_the_loss_is_least_where_the_student_says_what_the_teacher_wrote() -> None:
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


def test_contrast_pulls_apart_what_cosine_alone_does_not() -> None:
    targets, config = _unit(8, 384, 0), DistillConfig(cosine_weight=0.0)
    mean = torch.nn.functional.normalize(targets.mean(dim=0, keepdim=True), dim=1).expand(8, -1)
    assert float(head_loss(mean, targets, config)) > float(head_loss(targets, targets, config)) + 1


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


def test_ties_count_against() -> None:
    same = np.repeat(_in_each_head(1), 30, axis=0)
    assert measure(same, same, np.arange(30))["explicit"]["recall_10"] == 0.0


def test_nothing_measured_gives_no_figures() -> None:
    nothing = np.zeros((0, VECTOR_DIM), np.float32)
    assert measure(nothing, nothing, np.arange(0)) == {"explicit": {}, "implicit": {}, "words": {}}


def test_what_the_teacher_left_out_is_neither_measured_nor_a_candidate() -> None:
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
    assert lessons.texts == [texts[one] for one in lessons.ids]
    assert lessons.ids == [entry.id for entry in lessons.knowledge]
    assert lessons.held.sum() == round(0.1 * len(lessons.ids))


def test_what_is_held_out_depends_on_the_seed_alone() -> None:
    texts = {str(n): f"text {n}" for n in range(50)}
    knowledge = {name: _known(name) for name in texts}
    first, same, other = (make_lessons("items", texts, knowledge, 0.1, seed).held for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_a_handful_of_items_is_too_little() -> None:
    names = [str(n) for n in range(9)]
    base = KnowledgeBase({name: _known(name) for name in names}, {})
    with pytest.raises(StudentError, match="only 9 items"):
        all_lessons([dict.fromkeys(names, "text"), {}], base, 0.1, 0)


def test_targets_are_the_plain_encodings_of_both_texts() -> None:
    student = new_student()
    knowledge = {"1": _known("1", ("funny", "short")), "2": _known("2")}
    lessons = make_lessons("items", dict.fromkeys(knowledge, "text"), knowledge, 0.0, 0)
    assert target_texts(lessons.knowledge)[0] == ["Facts of 1. funny, short", "Facts of 2."]
    seen: list[tuple[int, int]] = []
    targets = encode_targets(student, lessons, lambda name, done, total, note: seen.append((done, total)))
    assert seen == [(2, 4), (4, 4)]
    expected = encode_texts(student, ["Facts of 1. funny, short", "For friends of 2."], plain=True)
    np.testing.assert_allclose(targets[0, :384], expected[0], atol=1e-6)
    np.testing.assert_allclose(targets[1, 384:768], expected[1], atol=1e-6)
    assert not targets[:, HEADS["words"]].any()


def test_the_words_are_all_that_the_teacher_wrote() -> None:
    known = [_known("1", ("funny", "short")), _known("2")]
    assert teachers_words(known) == ["Facts of 1. funny, short For friends of 1.", "Facts of 2. For friends of 2."]


def test_what_the_teacher_left_out_has_targets_of_zeros() -> None:
    knowledge = {"1": Knowledge(id="1", explicit="A beach.", implicit=" "), "2": _known("2")}
    lessons = make_lessons("items", dict.fromkeys(knowledge, "text"), knowledge, 0.0, 0)
    seen: list[tuple[int, int]] = []
    advance = lambda name, done, total, note: seen.append((done, total))  # noqa: E731
    targets = encode_targets(new_student(), lessons, advance)
    assert seen == [(2, 3), (3, 3)]
    said = [targets[:, HEADS[head]].any(axis=1).tolist() for head in ("explicit", "implicit")]
    assert said == [[True, True], [False, True]]


def test_knowledge_that_says_nothing_is_no_lesson() -> None:
    knowledge = {"1": Knowledge(id="1", explicit=" ", implicit=" "), "2": _known("2")}
    lessons = make_lessons("items", dict.fromkeys(knowledge, "text"), knowledge, 0.0, 0)
    assert lessons.ids == ["2"]


@pytest.mark.parametrize("frozen", [0, 4, 5, 6])
def test_vectors_of_cached_states_are_the_encoders(frozen: int) -> None:
    student = new_student()
    states = TextStates(student, TEXTS, frozen)
    expected = encode_texts(student, TEXTS)
    np.testing.assert_allclose(states.all_vectors(student), expected, atol=1e-6)
    with torch.no_grad():
        np.testing.assert_allclose(states.vectors(student, np.asarray([3, 0])), expected[[3, 0]], atol=1e-6)
