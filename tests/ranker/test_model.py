"""A candidate's score depends on nothing but itself, its user and its context."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from msd.contract.schema import Bag, Categorical, FeatureSchema, Numeric, Semantic, Sequence, State
from msd.ranker.model import Affinity, Ranker, RankerConfig, SideEmbedding

LENGTH = 5
DIM = 8


def _counts(name: str) -> State:
    side = "user" if name.startswith("user") else "item"
    return State(name=name, side=side, prior=0.1, strength=5.0, half_life_s=1e6, age_cap_s=1e6)  # type: ignore[arg-type]


SCHEMA = FeatureSchema(
    fields=(
        Categorical(name="user_id", side="user", is_id=True, buckets=20),
        Semantic(name="user_semantic", side="user", dim=DIM),
        _counts("user_counts"),
        Sequence(name="history", length=LENGTH),
        Categorical(name="item_id", side="item", is_id=True, buckets=30),
        Bag(name="genres", side="item", vocabulary=("x", "y", "z"), max_values=3),
        Numeric(name="price", side="item"),
        Semantic(name="item_semantic", side="item", dim=DIM),
        _counts("item_counts"),
        Categorical(name="hour", side="context", vocabulary=("0", "1")),
    )
)


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    torch.manual_seed(11)
    model = Ranker(SCHEMA, RankerConfig(hidden=(16, 8), selected=2)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model


def _tensors(candidates: int, seed: int = 0, held: int = 3) -> dict[str, Tensor]:
    """One user with `held` items in the history, and candidates."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, Tensor] = {}
    for spec in SCHEMA.tensors:
        shape = (candidates if spec.side == "item" else 1, *spec.shape)
        values = rng.integers(1, 3, shape) if spec.dtype == "int32" else rng.standard_normal(shape)
        tensors[spec.name] = torch.from_numpy(values.astype(spec.dtype))
    tensors["history_mask"] = (torch.arange(LENGTH) < held).float()[None]
    for name in ("history_categorical", "history_semantic"):
        tensors[name][:, held:] = 0
    return tensors


def _chosen(tensors: dict[str, Tensor], places: list[int]) -> dict[str, Tensor]:
    return {name: tensor[places] if name.startswith("item_") else tensor for name, tensor in tensors.items()}


@settings(max_examples=30, deadline=None)
@given(places=st.lists(st.integers(0, 6), min_size=1, max_size=12))
def test_scores_do_not_depend_on_order_neighbours_or_duplicates(ranker: Ranker, places: list[int]) -> None:
    tensors = _tensors(7)
    with torch.no_grad():
        whole, part = ranker(tensors), ranker(_chosen(tensors, places))
    assert part.shape == (len(places),)
    np.testing.assert_allclose(part, whole[places], atol=1e-5)


def test_a_user_repeated_for_each_candidate_gives_what_one_user_gives(ranker: Ranker) -> None:
    tensors = _tensors(6)
    repeated = {
        name: tensor if name.startswith("item_") else tensor.expand(6, *tensor.shape[1:])
        for name, tensor in tensors.items()
    }
    with torch.no_grad():
        np.testing.assert_allclose(ranker(repeated), ranker(tensors), atol=1e-5)


@pytest.mark.parametrize("held", [0, 1, 3])
def test_what_stands_in_the_padding_does_not_matter(ranker: Ranker, held: int) -> None:
    tensors = _tensors(4, held=held)
    spoiled = {name: tensor.clone() for name, tensor in tensors.items()}
    spoiled["history_categorical"][:, held:] = 2
    spoiled["history_semantic"][:, held:] = 77.0
    with torch.no_grad():
        assert torch.equal(ranker(spoiled), ranker(tensors))


def test_more_padding_does_not_matter(ranker: Ranker) -> None:
    tensors = _tensors(4)
    padded = dict(tensors)
    for name in ("history_categorical", "history_semantic", "history_mask"):
        more = torch.zeros(1, 9, *tensors[name].shape[2:], dtype=tensors[name].dtype)
        padded[name] = torch.cat([tensors[name], more], 1)
    with torch.no_grad():
        np.testing.assert_allclose(ranker(padded), ranker(tensors), atol=1e-6)


def test_every_input_matters(ranker: Ranker) -> None:
    tensors = _tensors(4)
    with torch.no_grad():
        before = ranker(tensors)
        for spec in SCHEMA.tensors:
            changed = dict(tensors)
            if spec.name == "history_mask":
                changed[spec.name] = torch.zeros_like(tensors[spec.name])
            elif spec.dtype == "int32":
                changed[spec.name] = (tensors[spec.name] + 1) % 3
            else:
                changed[spec.name] = tensors[spec.name] + 1 + torch.arange(spec.shape[-1])
            assert not torch.allclose(ranker(changed), before, atol=1e-4), spec.name


def test_a_bag_is_the_mean_of_its_values() -> None:
    embed = SideEmbedding(SCHEMA, "item", RankerConfig(embedding=4)).eval()
    table = embed.get_parameter("tables.genres.weight")
    with torch.no_grad():
        found = embed(torch.tensor([[1, 2, 3, 0], [1, 3, 3, 0], [1, 4, 0, 0], [1, 0, 0, 0]], dtype=torch.int32))[:, 4:]
    expected = [(table[2] + table[3]) / 2, table[3], table[4], torch.zeros(4)]
    np.testing.assert_allclose(found, torch.stack(expected).detach(), atol=1e-7)


def test_ids_are_dropped_in_training_alone() -> None:
    embed = SideEmbedding(SCHEMA, "item", RankerConfig(embedding=4, id_dropout=1.0))
    index = torch.tensor([[5, 2, 0, 0]], dtype=torch.int32)
    trained, served = embed.train()(index), embed.eval()(index)
    assert not trained[:, :4].any()
    assert served[:, :4].all()
    assert torch.equal(trained[:, 4:], served[:, 4:])


def test_an_unknown_id_says_nothing() -> None:
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


def test_the_share_of_hidden_ids_is_hidden_whole() -> None:
    torch.manual_seed(3)
    config = RankerConfig(embedding=4, id_dropout=0.0, id_hidden=0.75)
    embed = SideEmbedding(SCHEMA, "item", config).train()
    found = embed(torch.tensor([[5, 2, 0, 0]], dtype=torch.int32).expand(4_000, -1))[:, :4]
    shown = (found != 0).sum(1)
    assert set(shown.tolist()) == {0, 4}
    assert (shown == 4).float().mean().item() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("change", [{"fusion": False}, {"selected": 1}, {"selected": None}, {"affinity": 0}])
def test_a_part_that_is_left_out_changes_scores(ranker: Ranker, change: dict[str, object]) -> None:
    less = Ranker(SCHEMA, ranker.config.model_copy(update=change)).eval()
    own = less.state_dict()
    less.load_state_dict(
        {
            name: value if value.shape == own[name].shape else own[name]
            for name, value in ranker.state_dict().items()
            if name in own
        }
    )
    tensors = _tensors(4, held=LENGTH)
    with torch.no_grad():
        assert not torch.allclose(less(tensors), ranker(tensors), atol=1e-6)


def test_affinity_is_a_linear_model_of_the_item_for_each_user() -> None:
    users = Categorical(name="user_id", side="user", is_id=True, vocabulary=("a", "b"))
    affinity = Affinity(users, described=3, dim=2)
    items = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    with torch.no_grad():
        found = affinity(torch.tensor([2, 3]), items)
        expected = (affinity.users.weight[2:] * affinity.describe(items)).sum(1)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert not affinity(torch.tensor([1]), items).any(), "an unknown user has no taste"
