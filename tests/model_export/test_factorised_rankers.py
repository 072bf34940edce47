"""Our own rankers, their baselines and the reference model are factorised exactly."""

import warnings
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from lab.reference.graphs import examples, plain_graph
from lab.reference.inputs import SIDES, random_feeds
from model_export.foreign.bind import ITEM_AXIS
from model_export.ranker import ranker_graph
from msd.contract.schema import Bag, Categorical, FeatureSchema, Numeric, Semantic, Sequence, State
from msd.ranker.batch import TrainedRanker
from msd.ranker.model import RankerConfig
from msd.student.record import VECTOR_DIM
from onnx_factorise.pass_ import factorise
from onnx_factorise.proof import prove
from onnx_factorise.report import Rule
from tests.lab.reference.small import SMALL, network
from tests.onnx_factorise.graphs import COUNTS, Feeds, feeds_of

SCHEMA = FeatureSchema(
    fields=(
        Categorical(name="user_id", side="user", is_id=True, buckets=20),
        Categorical(name="city", side="user", vocabulary=("p", "q", "r")),
        Semantic(name="user_semantic", side="user", dim=8),
        State(name="user_counts", side="user", prior=0.1, strength=5.0, half_life_s=1e6, age_cap_s=1e6),
        Sequence(name="history", length=7),
        Categorical(name="item_id", side="item", is_id=True, buckets=30),
        Bag(name="genres", side="item", vocabulary=("x", "y", "z"), max_values=3),
        Categorical(name="studio", side="item", vocabulary=("a", "b", "c", "d")),
        Categorical(name="language", side="item", vocabulary=("en", "fr", "de")),
        Numeric(name="price", side="item"),
        Semantic(name="item_semantic", side="item", dim=8),
        State(name="item_counts", side="item", prior=0.1, strength=5.0, half_life_s=1e6, age_cap_s=1e6),
        Categorical(name="hour", side="context", vocabulary=("0", "1")),
    )
)
RANKERS = ("msd", "paper", "lr", "deepfm", "din", "dcnv2")


def _ranker(network: str) -> onnx.ModelProto:
    """Our own network or a baseline with random weights, as it is exported."""
    torch.manual_seed(5)
    config = RankerConfig.model_validate({"network": network, "hidden": (16, 8)})
    trained = TrainedRanker(SCHEMA, config, VECTOR_DIM).eval()
    with torch.no_grad():
        for weight in trained.ranker.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return onnx.load_from_string(ranker_graph(trained))


USED = {
    "reference": {Rule.USER_MATRIX, Rule.LINEAR, Rule.WEIGHTED_SUM, Rule.GATHER},
    "our msd": {Rule.CONCAT, Rule.LINEAR, Rule.AFFINE},
    "our deepfm": {Rule.BROADCAST, Rule.LINEAR},
    "our dcnv2": {Rule.BROADCAST, Rule.AFFINE},
    "our din": {Rule.USER_MATRIX, Rule.WEIGHTED_SUM},
}


@cache
def _made(name: str) -> tuple[onnx.ModelProto, list[Feeds]]:
    if name.startswith("our "):
        model = _ranker(name.removeprefix("our "))
        return model, [feeds_of(model, count, seed=count) for count in COUNTS]
    return plain_graph(network(), SMALL), [random_feeds(SMALL, count, count) for count in COUNTS]


def _scores(model: onnx.ModelProto, feeds: Feeds) -> "list[np.ndarray[tuple[int], np.dtype[np.float32]]]":
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return list(session.run(None, {name: feeds[name] for name in names}))


SELECTING = {"our paper": ("TopK",)}


@pytest.mark.parametrize("name", ["reference", *(f"our {name}" for name in RANKERS)])
def test_network_is_factorised_exactly(name: str) -> None:
    model, feeds = _made(name)
    assert prove(model, ITEM_AXIS, feeds) <= 1e-12
    passed = factorise(model, ITEM_AXIS)
    onnx.checker.check_model(passed.model, full_check=True)
    for feed in feeds:
        for before, after in zip(_scores(model, feed), _scores(passed.model, feed), strict=True):
            np.testing.assert_allclose(after, before, atol=5e-6)
            assert len(before) < 3 or before.std() > 1e-4
    report = passed.report
    assert report.used.keys() >= USED.get(name, set())
    left = {entry.operator for entry in report.entries if entry.left}
    # Around the sums of bags; and each target selects from the history.
    assert left <= ({"Flatten", "Reshape", *SELECTING.get(name, ())} if name.startswith("our ") else set())
    assert passed.model.graph.input == model.graph.input


def test_graph_of_the_newer_exporter_is_split() -> None:
    plain = network()
    inputs = examples(plain, SMALL)
    many = torch.export.Dim("candidates", min=1, max=100_000)
    dims = tuple({0: many} if SIDES[one] == "item" else None for one in plain.inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            plain, inputs, dynamo=True, dynamic_shapes=dims, input_names=plain.inputs, verbose=False
        )
    assert program is not None
    model = program.model_proto
    feeds = [random_feeds(SMALL, count, count) for count in COUNTS]
    assert prove(model, ITEM_AXIS, feeds) <= 1e-12
    report = factorise(model, ITEM_AXIS).report
    assert report.used.keys() >= USED["reference"]
    assert not any(entry.left for entry in report.entries)
