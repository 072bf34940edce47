"""Each source gives what its name says, in the student's width; exchanged vectors are as if built in."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lab.benchmark.variant import Source
from lab.benchmark.vectors import VectorSources, bag_of_words, with_vectors
from msd.dataset.load import Dataset
from msd.dataset.texts import student_texts
from msd.ranker.adaptor import Adaptors
from msd.ranker.features import build_features
from msd.ranker.schema_fit import fit_schema
from msd.student.encoder import encode_texts, new_student
from msd.student.record import HEADS, VECTOR_DIM
from msd.student.vectors import load_vectors
from msd.teachers.knowledge import Knowledge, KnowledgeBase, load_knowledge
from tests.lab.benchmark.made import Steps
from tests.ranker.made import word_vectors


@pytest.fixture(scope="module")
def base(prepared: Path) -> KnowledgeBase:
    return load_knowledge(prepared / "knowledge")


@pytest.fixture(scope="module")
def sources(prepared: Path, tiny: Dataset, base: KnowledgeBase) -> VectorSources:
    return VectorSources(tiny, base, lambda: prepared / "student", Steps())


def test_student_is_taken_as_it_is_and_the_plain_encoder_reads_raw_texts(
    sources: VectorSources, prepared: Path, tiny: Dataset
) -> None:
    own, found = load_vectors(prepared / "student"), sources.of("student")
    assert found.student == own.student
    assert found.items.ids == own.items.ids
    np.testing.assert_array_equal(found.users.vectors, own.users.vectors)
    found, texts = sources.of("plain"), student_texts(tiny)[0]
    assert found.items.ids == list(texts)
    np.testing.assert_array_equal(found.items.vectors, encode_texts(new_student(), list(texts.values())))
    assert not found.items.vectors[:, HEADS["words"]].any()


@pytest.mark.parametrize("source", ["student", "plain", "bag_of_words"])
def test_without_users_every_source_is_of_items(
    tiny: Dataset, base: KnowledgeBase, prepared: Path, sources: VectorSources, source: Source
) -> None:
    """And nothing of users is read: their texts may tell what they liked of the test rows."""
    steps = Steps()
    without = VectorSources(tiny, base, lambda: prepared / "student", steps, users=False)
    found = without.of(source)
    assert found.users.ids == []
    assert found.items.ids == sources.of(source).items.ids
    assert all(total == len(found.items.ids) for _, _, total in steps)


def test_plain_words_are_zero_after_the_adaptor(tiny: Dataset, sources: VectorSources) -> None:
    """Otherwise they would make all items alike."""
    features = build_features(tiny, fit_schema(tiny), sources.of("plain"))
    adaptors = Adaptors(features.schema, VECTOR_DIM)
    adaptors.start_at(features)
    meaning, words = adaptors.adapt(features).adapted["item"][:-1].chunk(2, -1)
    assert meaning.std() > 0.5
    assert not words.any()


def test_bag_of_words_finds_texts_of_the_same_words() -> None:
    topics = {"a": "guitar concert choir", "b": "goal stadium league", "c": "oven recipe spice"}
    known = {
        f"{topic}{number}": Knowledge(id=f"{topic}{number}", explicit=words, implicit=f"Of {number} {words.split()[0]}")
        for topic, words in topics.items()
        for number in range(4)
    }
    level = bag_of_words(known)
    assert level.ids == list(known)
    assert level.vectors.shape == (12, VECTOR_DIM)
    np.testing.assert_allclose(np.linalg.norm(level.vectors, axis=1), 1.0, atol=1e-5)
    alike = level.vectors @ level.vectors.T
    same = np.array([[name[0] == other[0] for other in known] for name in known])
    assert alike[same].min() > alike[~same].max() + 0.5
    assert bag_of_words({}).vectors.shape == (0, VECTOR_DIM)


def test_exchanged_vectors_are_as_if_built_in(tiny: Dataset, sources: VectorSources) -> None:
    """The two differ in who has a vector: of those made of words every ninth has none."""
    schema = fit_schema(tiny)
    built, other = build_features(tiny, schema, word_vectors(tiny)), build_features(tiny, schema, sources.student)
    exchanged = with_vectors(other, word_vectors(tiny))
    for found, expected in ((exchanged.user, built.user), (exchanged.item, built.item)):
        for name in ("rows", "categorical", "dense", "live_dense", "aged_dense", "unknown_dense", "vectors", "present"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert not torch.equal(other.item.dense, built.item.dense)
    assert not torch.equal(other.user.present, built.user.present)
