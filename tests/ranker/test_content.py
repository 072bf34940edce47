"""The regression within tests: what it finds in invented ones, what it refuses, and how its ranker scores."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from model_export.ranker import ranker_graph, torch_scores
from msd.dataset.invented import DEEDS, ENDINGS, OPENINGS, PEOPLE
from msd.dataset.load import load_dataset
from msd.dataset.split import Part
from msd.dataset.upworthy import write_headline_tests
from msd.ranker.features import Features, build_features
from msd.ranker.model import RankerConfig
from msd.ranker.schema_fit import fit_schema
from msd.student.record import VECTOR_DIM
from msd.student.vectors import LevelVectors, StudentVectors, no_vectors
from msd.training.content import fit_content, train_content
from msd.training.train import TrainError, predict

PHRASES = {
    phrase.lower(): worth for law in (OPENINGS, PEOPLE, DEEDS, ENDINGS) for phrase, worth in law.items() if phrase
}


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Features:
    """Invented tests; an item's vector says which phrases its headline has."""
    folder: Path = tmp_path_factory.mktemp("headlines")
    write_headline_tests(folder, None)
    data = load_dataset(folder)
    ids, titles = data.items["item_id"].to_list(), data.items["title"].str.to_lowercase().to_list()
    vectors = np.zeros((len(ids), VECTOR_DIM), np.float32)
    vectors[:, : len(PHRASES)] = [[phrase in title for phrase in PHRASES] for title in titles]
    held = StudentVectors("5" * 64, LevelVectors(ids, vectors), no_vectors().users)
    return build_features(data, fit_schema(data), held)


def test_finds_effects_of_phrases_but_none_of_a_story(features: Features) -> None:
    phrases = features.item.vectors.numpy()[:, : len(PHRASES)]
    users = np.zeros(len(phrases), np.int64)
    users[features.item.rows] = features.user.rows
    story = np.random.default_rng(0).standard_normal(users.max() + 1)[users]
    weights, _ = fit_content(features, np.c_[phrases, story])
    assert np.corrcoef(weights[:-1], list(PHRASES.values()))[0, 1] > 0.95
    assert weights[-1] == pytest.approx(0, abs=1e-9)


def test_refuses_items_that_do_not_differ_within_tests(features: Features) -> None:
    with pytest.raises(TrainError, match="no user of the train rows saw two items with different texts"):
        fit_content(features, np.zeros((len(features.item.vectors), 3)))


def test_ranker_scores_by_vectors_alone_and_exports(features: Features) -> None:
    model, curve = train_content(features, RankerConfig(network="content"), seed=0)
    assert curve[-1].valid_auc > 0.55
    valid = features.of_part(Part.VALID)
    pctr = predict(model, features, valid)
    labels, shown = features.outcomes(valid)
    assert np.average(pctr, weights=shown) == pytest.approx(np.average(labels, weights=shown), rel=0.05)
    unknown = replace(features, user=replace(features.user, rows=torch.zeros_like(features.user.rows)))
    assert np.array_equal(predict(model, unknown, valid), pctr)
    tensors = {
        spec.name: np.ones((4 if spec.side == "item" else 1, *spec.shape), spec.dtype)
        for spec in features.schema.tensors
    }
    tensors["item_semantic"] = np.random.default_rng(1).standard_normal(tensors["item_semantic"].shape).astype("f4")
    session = onnxruntime.InferenceSession(ranker_graph(model), providers=["CPUExecutionProvider"])
    assert {one.name for one in session.get_inputs()} == set(tensors), "the graph takes what a request gives"
    (found,) = session.run(["pctr"], tensors)
    np.testing.assert_allclose(found, torch_scores(model)(tensors)[0], atol=1e-6)
    assert found.std() > 0
