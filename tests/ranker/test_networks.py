"""Every network scores a candidate by itself, its user and its context; baselines compute what their papers say."""

import itertools
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from model_export.ranker import ranker_graph, torch_scores
from msd.contract.schema import OUTCOME_FEATURES, Bag, Categorical, FeatureSchema, Numeric, Semantic, Sequence, State
from msd.ranker.batch import Network, TrainedRanker, new_network
from msd.ranker.embedding import SideEmbedding
from msd.ranker.model import Affinity, Ranker, RankerConfig
from msd.ranker.networks import DcnV2, DeepFm, Din, LogisticRegression, Pool
from msd.student.record import VECTOR_DIM
from tests.ranker.made import SMALL

NAMES = ("lr", "deepfm", "din", "dcnv2")
LENGTH, DIM = 5, 8


def _counts(name: str) -> State:
    side = "user" if name.startswith("user") else "item"
    return State(name=name, side=side, prior=0.1, strength=5.0, half_life_s=1e6, age_cap_s=1e6)  # type: ignore[arg-type]


PLAIN = FeatureSchema(
    fields=(
        Categorical(name="user_id", side="user", is_id=True, buckets=20),
        _counts("user_counts"),
        Sequence(name="history", length=LENGTH),
        Categorical(name="item_id", side="item", is_id=True, buckets=30),
        Bag(name="genres", side="item", vocabulary=("x", "y", "z"), max_values=3),
        Numeric(name="price", side="item"),
        _counts("item_counts"),
        Categorical(name="hour", side="context", vocabulary=("0", "1")),
    )
)
VECTORS = (Semantic(name="user_semantic", side="user", dim=DIM), Semantic(name="item_semantic", side="item", dim=DIM))
SCHEMAS = {"semantic": FeatureSchema(fields=(*PLAIN.fields, *VECTORS)), "plain": PLAIN}
NETWORKS = {(name, kind): (name, SCHEMAS[kind]) for name, kind in itertools.product(("msd", *NAMES), SCHEMAS)}
NETWORKS["paper", "semantic"] = ("paper", SCHEMAS["semantic"])
EVERY = pytest.mark.parametrize("made", NETWORKS.values(), ids=["-".join(key) for key in NETWORKS])
Made = tuple[str, FeatureSchema]
HISTORY = {"history_categorical", "history_semantic", "history_mask", "history_outcomes"}


def _network(made: Made) -> Network:
    """Return a network with weights far from their initial values."""
    torch.manual_seed(11)
    name, schema = made
    model = new_network(schema, SMALL.model_copy(update={"network": name}))
    _stir(model)
    return model.eval()


def _stir(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))


def _tensors(schema: FeatureSchema, candidates: int, held: int = 3) -> dict[str, Tensor]:
    """One user with `held` items in the history, every second of them clicked, and candidates."""
    rng = np.random.default_rng(candidates)
    tensors: dict[str, Tensor] = {}
    for spec in schema.tensors:
        shape = (candidates if spec.side == "item" else 1, *spec.shape)
        values = rng.integers(0, 3, shape) if spec.dtype == "int32" else rng.standard_normal(shape)
        tensors[spec.name] = torch.from_numpy(values.astype(spec.dtype))
    if schema.semantic("item"):  # every second item has a vector
        tensors["item_dense"][:, -1] = torch.arange(candidates) % 2
    shown, ages = torch.tensor([1.0, 4.0, 2.0, 1.0, 8.0]), torch.tensor([30.0, 7.0, 1.0, 0.1, 0.0])
    clicks, rates = torch.tensor([1.0, 0.0, 2.0, 0.0, 3.0]), torch.tensor([0.3, -0.5, 0.0, 1.0, -2.0])
    tensors["history_outcomes"] = torch.stack([shown, clicks, ages, rates], -1)[None]
    tensors["history_mask"] = (clicks > 0).float()[None]
    for name in tensors.keys() & HISTORY:
        tensors[name][:, held:] = 0
    return tensors


def _chosen(tensors: dict[str, Tensor], places: list[int]) -> dict[str, Tensor]:
    return {name: tensor[places] if name.startswith("item_") else tensor for name, tensor in tensors.items()}


@EVERY
@settings(max_examples=10)
@given(places=st.lists(st.integers(0, 6), min_size=1, max_size=12))
def test_scores_ignore_order_neighbours_and_duplicates(made: Made, places: list[int]) -> None:
    model, tensors = _network(made), _tensors(made[1], 7)
    with torch.no_grad():
        whole, part = model(tensors), model(_chosen(tensors, places))
    assert part.shape == (len(places),)
    np.testing.assert_allclose(part, whole[places], atol=1e-5)


@EVERY
def test_repeated_user_scores_like_one_user(made: Made) -> None:
    model, tensors = _network(made), _tensors(made[1], 6)
    repeated = {
        name: tensor if name.startswith("item_") else tensor.expand(6, *tensor.shape[1:])
        for name, tensor in tensors.items()
    }
    with torch.no_grad():
        np.testing.assert_allclose(model(repeated), model(tensors), atol=1e-5)


@EVERY
@pytest.mark.parametrize("held", [0, 1, 3])
def test_padding_content_and_length_are_ignored(made: Made, held: int) -> None:
    model, tensors = _network(made), _tensors(made[1], 4, held)
    spoiled, padded = ({name: tensor.clone() for name, tensor in tensors.items()} for _ in range(2))
    for name in tensors.keys() & HISTORY:
        if name in ("history_categorical", "history_semantic"):
            spoiled[name][:, held:] = 2
        more = torch.zeros(1, 9, *tensors[name].shape[2:], dtype=tensors[name].dtype)
        padded[name] = torch.cat([tensors[name], more], 1)
    with torch.no_grad():
        assert torch.equal(model(spoiled), model(tensors))
        np.testing.assert_allclose(model(padded), model(tensors), atol=1e-6)


@EVERY
def test_every_input_changes_scores(made: Made) -> None:
    model, tensors = _network(made), _tensors(made[1], 4)
    # MSD's network reads clicks from the outcomes.
    unread = {"history_mask"} if made[0] == "msd" else set()
    with torch.no_grad():
        before = model(tensors)
        for spec in (spec for spec in made[1].tensors if spec.name not in unread):
            changed = dict(tensors)
            if spec.name == "history_mask":
                changed[spec.name] = torch.zeros_like(tensors[spec.name])
            elif spec.dtype == "int32":
                changed[spec.name] = (tensors[spec.name] + 1) % 3
            else:
                changed[spec.name] = tensors[spec.name] + 1 + torch.arange(spec.shape[-1])
            assert not torch.allclose(model(changed), before, atol=1e-4), spec.name


@EVERY
def test_onnxruntime_scores_like_torch(made: Made, tmp_path: Path) -> None:
    torch.manual_seed(5)
    trained = TrainedRanker(made[1], SMALL.model_copy(update={"network": made[0]}), VECTOR_DIM)
    _stir(trained.ranker)
    session = onnxruntime.InferenceSession(ranker_graph(trained), providers=["CPUExecutionProvider"])
    for candidates in (1, 3, 40):
        tensors = {name: tensor.numpy() for name, tensor in _tensors(made[1], candidates).items()}
        (found,) = session.run(["pctr"], tensors)
        (expected,) = torch_scores(trained)(tensors)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert candidates == 1 or expected.std() > 1e-3


@EVERY
def test_ids_are_dropped_only_in_training(made: Made) -> None:
    name, schema = made
    torch.manual_seed(3)
    model = new_network(schema, SMALL.model_copy(update={"network": name, "id_dropout": 1.0, "dropout": 0.0}))
    _stir(model)
    tensors = _tensors(schema, 4)
    other = {**tensors, "item_categorical": tensors["item_categorical"].clone()}
    other["item_categorical"][:, 0] += 5
    with torch.no_grad():
        assert torch.equal(model.train()(tensors), model(other))
        assert not torch.allclose(model.eval()(tensors), model(other), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_baseline_reads_clicked_and_passed_items_apart(name: str) -> None:
    model, tensors = _network((name, PLAIN)), _tensors(PLAIN, 4)
    turned, without = dict(tensors), {**tensors, "history_outcomes": tensors["history_outcomes"].clone()}
    turned["history_mask"] = (tensors["history_outcomes"][..., 0] > 0).float() - tensors["history_mask"]
    without["history_outcomes"][:, 1] = 0.0
    with torch.no_grad():
        for other in (turned, without):
            assert not torch.allclose(model(other), model(tensors), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("outcome", ["impressions", "clicks", "age_days", "smoothed_log_odds"])
def test_baseline_reads_each_outcome_of_past_impressions(name: str, outcome: str) -> None:
    """Also of those it passed over, alone."""
    model, tensors = _network((name, PLAIN)), _tensors(PLAIN, 4)
    for place in (0, 1):
        other = {**tensors, "history_outcomes": tensors["history_outcomes"].clone()}
        other["history_outcomes"][:, place, OUTCOME_FEATURES.index(outcome)] += 30.0
        with torch.no_grad():
            assert not torch.allclose(model(other), model(tensors), atol=1e-5)


def test_untrained_pool_counts_impressions_alike() -> None:
    history, tensors = torch.randn(1, LENGTH, 7), _tensors(PLAIN, 2)
    with torch.no_grad():
        clicked, passed = Pool()(history, tensors)
    np.testing.assert_allclose(clicked[0], history[0, [0, 2]].mean(0), atol=1e-6)
    np.testing.assert_allclose(passed[0], history[0, 1], atol=1e-6)


def test_logistic_regression_adds_its_weights() -> None:
    model, tensors = _network(("lr", PLAIN)), _tensors(PLAIN, 3)
    assert isinstance(model, LogisticRegression)
    weight = {name: value.detach().numpy() for name, value in model.named_parameters()}
    outcomes = tensors["history_outcomes"][0, :3].clone()
    outcomes[:, :3] = outcomes[:, :3].log1p()
    outcomes *= 0.1
    counts = 2 / (1 + np.exp(-(outcomes.numpy() @ weight["pool.weigh.weight"][0] + weight["pool.weigh.bias"])))
    means = [(torch.from_numpy(counts[rows, None]) * outcomes[rows]).mean(0).float() for rows in ([0, 2], [1])]
    numbers = [tensors["user_dense"].expand(3, -1), tensors["item_dense"], *(mean.expand(3, -1) for mean in means)]

    def item(kind: str, values: Tensor) -> float:
        own = weight[f"{kind}.tables.item_id.weight"][values[0]].item() if values[0] else 0.0  # 0 is an unknown id
        genres = [weight[f"{kind}.tables.genres.weight"][value].item() for value in values[1:] if value]
        return float(own + (np.mean(genres) if genres else 0.0))

    held = tensors["history_categorical"][0, :3]
    clicked = np.mean([count * item("histories.0", one) for count, one in zip(counts[::2], held[::2], strict=True)])
    passed = counts[1] * item("histories.1", held[1])
    asking = (
        weight["weights.user.tables.user_id.weight"][user].item() if (user := tensors["user_categorical"][0, 0]) else 0
    ) + weight["weights.context.tables.hour.weight"][tensors["context_categorical"][0, 0]].item()
    items = [item("weights.item", one) for one in tensors["item_categorical"]]
    dense = torch.cat(numbers, -1).numpy() @ weight["head.weight"][0] + weight["head.bias"]
    with torch.no_grad():
        np.testing.assert_allclose(model(tensors), np.array(items) + clicked + passed + asking + dense, atol=1e-5)


def test_deepfm_multiplies_every_pair_of_fields() -> None:
    model, tensors = _network(("deepfm", SCHEMAS["semantic"])), _tensors(SCHEMAS["semantic"], 3)
    assert isinstance(model, DeepFm)
    seen: list[Tensor] = []
    model.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        torch.nn.init.zeros_(model.head.weight)
        torch.nn.init.zeros_(model.head.bias)
        found = model(tensors) - model.linear(tensors)
        fields = seen[0].reshape(3, -1, SMALL.embedding)
    # user_id, hour; item_id and genres of target, clicked and passed items; projected: two dense tensors, the user's
    # vector and the target's, and those of clicked and passed items, with their outcomes.
    assert fields.shape[1] == 2 + 6 + 2 + 4
    pairs = sum((fields[:, one] * fields[:, other]).sum(-1) for one, other in itertools.combinations(range(14), 2))
    np.testing.assert_allclose(found, pairs, atol=1e-4)


def test_din_weighs_each_impression_by_the_target_and_by_itself_alone() -> None:
    model = _network(("din", PLAIN))
    assert isinstance(model, Din)
    first, second = _tensors(PLAIN, 2, held=1), _tensors(PLAIN, 2, held=1)
    second["history_categorical"] = (first["history_categorical"] + 1) % 3
    second["history_outcomes"] = 2 * first["history_outcomes"]
    both = {**first, "history_mask": torch.ones(1, 2)}
    both["history_outcomes"] = torch.cat([one["history_outcomes"][:, :1] for one in (first, second)], 1)
    both["history_categorical"] = torch.cat([one["history_categorical"][:, :1] for one in (first, second)], 1)
    seen: list[Tensor] = []
    model.norm.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0][:, -2 * (model.item_width + 4) : -(model.item_width + 4)])
    )
    with torch.no_grad():
        for tensors in (first, second, both):
            model(tensors)
    assert not torch.allclose(seen[0][0], seen[0][1], atol=1e-4)
    assert not torch.allclose(seen[0], seen[1], atol=1e-4)
    np.testing.assert_allclose(seen[2], (seen[0] + seen[1]) / 2, atol=1e-5)


def test_dcn_crosses_its_inputs_with_themselves() -> None:
    model, tensors = _network(("dcnv2", PLAIN)), _tensors(PLAIN, 3)
    assert isinstance(model, DcnV2)
    seen: list[Tensor] = []
    model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, : model.width]))
    model.norm.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        model(tensors)
        x0, crossed = seen
        x = x0
        for layer in model.cross:
            x = x0 * layer(x) + x
    np.testing.assert_allclose(crossed, x, atol=1e-6)
    assert not torch.allclose(crossed, x0, atol=1e-3)


def test_default_network_is_msd_and_others_are_checked() -> None:
    assert RankerConfig().network == "msd"
    with pytest.raises(ValidationError, match="should be 'msd', 'paper', 'content', 'lr', 'deepfm', 'din' or 'dcnv2'"):
        RankerConfig.model_validate({"network": "wide"})
    for name in ("deepfm", "din", "dcnv2"):
        with pytest.raises(ValidationError, match=f"hidden is empty, and the network '{name}' is not without an MLP"):
            RankerConfig.model_validate({"network": name, "hidden": ()})


def test_bag_is_the_mean_of_its_values() -> None:
    embed = SideEmbedding(SCHEMAS["semantic"], "item", RankerConfig(embedding=4)).eval()
    table = embed.get_parameter("tables.genres.weight")
    with torch.no_grad():
        found = embed(torch.tensor([[1, 2, 3, 0], [1, 3, 3, 0], [1, 4, 0, 0], [1, 0, 0, 0]], dtype=torch.int32))[:, 4:]
    expected = [(table[2] + table[3]) / 2, table[3], table[4], torch.zeros(4)]
    np.testing.assert_allclose(found, torch.stack(expected).detach(), atol=1e-7)


def test_unknown_id_is_zeros() -> None:
    """As a hidden one does in training, so that new users and items are scored as the model learned to."""
    schema = FeatureSchema(
        fields=(
            Categorical(name="user_id", side="user", is_id=True, vocabulary=("a", "b")),
            Sequence(name="history", length=LENGTH),
            Categorical(name="item_id", side="item", is_id=True, buckets=3),
        )
    )
    user, item = (SideEmbedding(schema, side, RankerConfig(embedding=4)).eval() for side in ("user", "item"))
    assert not user(torch.tensor([[0], [1]])).any()
    assert user(torch.tensor([[2], [3]])).all()
    assert not item(torch.tensor([[0]])).any()
    assert item(torch.tensor([[1]])).all()


def test_share_of_ids_is_hidden_whole() -> None:
    torch.manual_seed(3)
    config = RankerConfig(embedding=4, id_dropout=0.0, id_hidden=0.75)
    embed = SideEmbedding(SCHEMAS["semantic"], "item", config).train()
    found = embed(torch.tensor([[5, 2, 0, 0]], dtype=torch.int32).expand(4_000, -1))[:, :4]
    shown = (found != 0).sum(1)
    assert set(shown.tolist()) == {0, 4}
    assert (shown == 4).float().mean().item() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("change", [{"taste": False}, {"affinity": 0}, {"counts": ()}])
def test_part_left_out_changes_scores(change: dict[str, object]) -> None:
    ranker, tensors = _network(("msd", SCHEMAS["semantic"])), _tensors(SCHEMAS["semantic"], 4, held=LENGTH)
    assert isinstance(ranker, Ranker)
    less = Ranker(SCHEMAS["semantic"], ranker.config.model_copy(update=change)).eval()
    own = less.state_dict()
    less.load_state_dict(
        {
            name: value if value.shape == own[name].shape else own[name]
            for name, value in ranker.state_dict().items()
            if name in own
        }
    )
    with torch.no_grad():
        assert not torch.allclose(less(tensors), ranker(tensors), atol=1e-6)


def test_affinity_is_linear_in_the_item_per_user() -> None:
    users = Categorical(name="user_id", side="user", is_id=True, vocabulary=("a", "b"))
    affinity = Affinity(users, described=3, dim=2)
    items = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    with torch.no_grad():
        found = affinity(torch.tensor([2, 3]), items)
        expected = (affinity.users.weight[2:] * affinity.describe(items)).sum(1)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert not affinity(torch.tensor([1]), items).any(), "an unknown user has no taste"
