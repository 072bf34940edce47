"""A taste equals a Gaussian process worked out in plain numpy, in torch and in an exported graph."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_export.graph import to_onnx
from msd.contract.schema import Bag, Categorical, FeatureSchema, Semantic, State
from msd.contract.schema import Sequence as History
from msd.contract.tensors import MOST_SHOWN
from msd.ranker.taste import Taste

LENGTH, DIM, TARGETS = 6, 8, 5
PRIOR = 0.1
SCHEMA = FeatureSchema(
    fields=(
        History(name="history", length=LENGTH),
        Categorical(name="item_id", side="item", is_id=True, buckets=30),
        Categorical(name="kind", side="item", vocabulary=("a", "b", "c")),
        Bag(name="genres", side="item", vocabulary=("v", "w", "x", "y"), max_values=3),
        Categorical(name="maker", side="item", buckets=999),
        Semantic(name="vector", side="item", dim=DIM),
        State(name="item_counts", side="item", prior=PRIOR, strength=5.0, half_life_s=1e6, age_cap_s=1e6),
    )
)
Floats = NDArray[np.float64]
Arrays = Mapping[str, NDArray[Any]]
Item = tuple[NDArray[Any], NDArray[Any]]
Items = Sequence[Item]


def _taste(spread: float, seed: int = 0) -> Taste:
    """Return a taste whose scales are far from their initial values."""
    torch.manual_seed(seed)
    taste = Taste(SCHEMA)
    with torch.no_grad():
        for weight in taste.parameters():
            weight.add_(spread * torch.randn_like(weight))
    return taste


def _items(rng: np.random.Generator, count: int) -> dict[str, NDArray[Any]]:
    """Return the categories and vectors of items, some of them missing or unknown; each block has the length √D."""
    rows = []
    for _ in range(count):
        genres = rng.permutation(np.arange(1, 6))[: rng.integers(0, 4)]
        maker = rng.choice([0, 7, 8])
        rows.append([rng.integers(0, 30), rng.integers(0, 5), *genres, *[0] * (3 - len(genres)), maker])
    blocks = rng.standard_normal((count, 2, DIM // 2))
    blocks *= np.sqrt(DIM // 2) / np.linalg.norm(blocks, axis=-1, keepdims=True) * (rng.random((count, 1, 1)) < 0.8)
    return {"categorical": np.array(rows, np.int32), "semantic": blocks.reshape(count, DIM).astype(np.float32)}


def _drawn(seed: int, held: int) -> dict[str, NDArray[Any]]:
    """Return a user's history of `held` items and some targets."""
    rng = np.random.default_rng(seed)
    history, targets = _items(rng, LENGTH), _items(rng, TARGETS)
    shown = rng.integers(1, 9, LENGTH)
    outcomes = np.stack(
        [shown, rng.integers(0, shown + 1), rng.exponential(20.0, LENGTH), rng.normal(0, 1, LENGTH)], -1
    ).astype(np.float32)
    tensors = {f"history_{name}": one for name, one in history.items()} | {"history_outcomes": outcomes}
    for one in tensors.values():
        one[held:] = 0
    return {name: one[None] for name, one in tensors.items()} | {f"item_{name}": one for name, one in targets.items()}


def _torch(taste: Taste, arrays: Arrays) -> Floats:
    with torch.no_grad():
        parts: Tensor = taste({name: torch.from_numpy(array) for name, array in arrays.items()})
    return parts.numpy().astype(np.float64)


def _likeness(taste: Taste, one: Item, other: Item) -> float:
    blocks, fields = (taste.scales[name].detach().double().exp().numpy() for name in ("blocks", "fields"))
    total = 0.0
    for scale, left, right in zip(blocks, np.split(one[1], 2), np.split(other[1], 2), strict=True):
        lengths = np.linalg.norm(left) * np.linalg.norm(right)
        total += scale * (left @ right / lengths if lengths else 0.0)
    for scale, (name, first) in zip(fields, (("kind", 2), ("genres", 2), ("maker", 1)), strict=True):
        mine, others = ({int(value) for value in item[0][SCHEMA.columns[name]] if value} for item in (one, other))
        if mine and others:
            shared = sum(value >= first for value in mine & others)
            total += scale * shared / np.sqrt(len(mine) * len(others))
    return float(total)


def _plain(taste: Taste, arrays: Arrays) -> Floats:
    """Return mood and mean [N, 2] by the textbook, impression by impression."""
    always = taste.scales["always"].exp().item()
    lately, days = (taste.scales[name].detach().double().exp().numpy() for name in ("lately", "days"))
    shown, clicks, ages, rates = arrays["history_outcomes"][0].astype(np.float64).T
    held = np.flatnonzero(shown)
    items = [(arrays["history_categorical"][0, one], arrays["history_semantic"][0, one]) for one in held]
    offset, slope = taste.offset.tolist()
    chance = 1 / (1 + np.exp(-(offset + slope * rates[held])))
    information = shown[held] * chance * (1 - chance)
    working = (clicks[held] - shown[held] * chance) / information

    def moods(one: Floats, other: Floats) -> Floats:
        return np.asarray(always + np.exp(-np.add.outer(one, other)[..., None] / days) @ lately)

    def likes(some: Items, others: Items) -> Floats:
        found = [_likeness(taste, one, other) for one in some for other in others]
        return np.array(found).reshape(len(some), len(others))

    noisy = moods(ages[held], ages[held]) + likes(items, items) + np.diag(1 / information)
    learned, now = np.linalg.solve(noisy, working), np.zeros(1)
    parts = []
    for target in zip(arrays["item_categorical"], arrays["item_semantic"], strict=True):
        parts.append([moods(ages[held], now)[:, 0] @ learned, likes(items, [target])[:, 0] @ learned])
    return np.array(parts)


@pytest.mark.parametrize("held", [0, 1, 4, LENGTH])
def test_taste_is_a_gaussian_process(held: int) -> None:
    for seed in range(5):
        taste, arrays = _taste(0.5, seed), _drawn(seed, held)
        np.testing.assert_allclose(_torch(taste, arrays), _plain(taste, arrays), atol=2e-5)


def test_user_without_impressions_has_no_taste() -> None:
    assert not _torch(_taste(0.0), _drawn(0, 0)).any()


def test_clicks_raise_the_log_odds_of_alike_items() -> None:
    taste, arrays = _taste(0.0), dict(_drawn(3, 1))
    arrays |= {name: arrays[name].copy() for name in ("item_categorical", "item_semantic", "history_outcomes")}
    arrays["history_categorical"], arrays["history_semantic"] = (
        arrays[f"item_{name}"][None, :1].repeat(LENGTH, 1) for name in ("categorical", "semantic")
    )
    found = {}
    for name, clicks, age in (("clicked", 4.0, 0.0), ("passed", 0.0, 0.0), ("long ago", 4.0, 300.0)):
        arrays["history_outcomes"] = np.zeros((1, LENGTH, 4), np.float32)
        arrays["history_outcomes"][0, 0] = 4.0, clicks, age, 0.0
        found[name] = _torch(taste, arrays)[0].sum()
    assert found["passed"] < 0 < found["long ago"] < found["clicked"]


def _extremes() -> Mapping[str, Arrays]:
    """Users at the edges of what a history can hold, with 50 items."""
    base = {name: np.resize(array, (1, 50, *array.shape[2:])) for name, array in _drawn(1, LENGTH).items()}
    base |= {name: array for name, array in _drawn(1, LENGTH).items() if name.startswith("item")}

    def user(held: int, shown: float, clicks: float, rate: float, alike: bool = False, age: float = 1.0) -> Arrays:
        arrays = {name: array.copy() for name, array in base.items()}
        if alike:
            for name in ("categorical", "semantic"):
                arrays[f"history_{name}"][:] = arrays[f"item_{name}"][0]
        arrays["history_outcomes"][:] = shown, clicks, age, rate
        for name in (name for name in arrays if name.startswith("history")):
            arrays[name][:, held:] = 0
        return arrays

    return {
        "no impressions": user(0, 0.0, 0.0, 0.0),
        "one item": user(1, 1.0, 1.0, 0.0),
        "all clicks": user(50, 1.0, 1.0, 1.0),
        "no clicks": user(50, 1.0, 0.0, 1.0),
        "identical items": user(50, MOST_SHOWN, 3.0, 2.2, alike=True, age=0.0),
        "never clicked by others": user(50, MOST_SHOWN, 1.0, -11.0),
        "always clicked by others": user(50, MOST_SHOWN, 7.0, 11.0),
        "ages ago": user(50, 1.0, 1.0, 0.0, age=36_500.0),
    }


EXTREMES = _extremes()


class _Parts(torch.nn.Module):
    """A taste with positional inputs."""

    def __init__(self, taste: Taste, names: Sequence[str]) -> None:
        super().__init__()
        self.taste, self.names = taste, names

    def forward(self, *tensors: Tensor) -> Tensor:
        parts: Tensor = self.taste(dict(zip(self.names, tensors, strict=True)))
        return parts


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_exported_taste_equals_torchs_at_every_extreme(spread: float) -> None:
    taste, names = _taste(spread), sorted(EXTREMES["one item"])
    module = _Parts(taste, names)
    given = {name: [torch.from_numpy(arrays[key]) for key in names] for name, arrays in EXTREMES.items()}
    graph = to_onnx(module, tuple(given["one item"]), names, ["parts"], {})
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for name, tensors in given.items():
        with torch.no_grad():
            expected = module(*tensors)
        (found,) = session.run(["parts"], dict(EXTREMES[name]))
        assert torch.isfinite(expected).all(), name
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4, err_msg=name)


class _Inverse(torch.nn.Module):
    def forward(self, matrix: Tensor) -> Tensor:
        inverse: Tensor = torch.linalg.inv(matrix)
        return inverse


@pytest.mark.parametrize("largest", [1.0, 10.0, 300.0])
def test_exported_inverse_is_exact(largest: float) -> None:
    """One large eigenvalue of 50, as of 50 items that are alike, and equal ones, as of items that are not."""
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.standard_normal((50, 50)))
    graph = to_onnx(_Inverse(), (torch.eye(50)[None],), ["matrix"], ["inverse"], {})
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for values in (np.append(np.ones(49), largest), np.full(50, 1.0 + largest / 50)):
        matrix = ((axes * values) @ axes.T).astype(np.float32)[None]
        (found,) = session.run(["inverse"], {"matrix": matrix})
        np.testing.assert_allclose(found[0], (axes / values) @ axes.T, atol=1e-5)
