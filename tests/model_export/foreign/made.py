"""A schema, tensors of it, and small rankers that are trained elsewhere as far as the export can tell."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from model_export.graph import to_onnx
from msd.contract.schema import Bag, Categorical, FeatureSchema, Numeric, State
from msd.contract.schema import Sequence as History
from msd.contract.tensors import Tensors

LENGTH = 4
SCHEMA = FeatureSchema(
    fields=(
        Categorical(name="user_id", side="user", is_id=True, buckets=20),
        Categorical(name="country", side="user", vocabulary=("de", "fr")),
        Numeric(name="age", side="user"),
        History(name="history", length=LENGTH),
        Categorical(name="item_id", side="item", is_id=True, buckets=30),
        Bag(name="genres", side="item", vocabulary=("x", "y", "z"), max_values=3),
        Numeric(name="price", side="item"),
        State(name="item_counts", side="item", prior=0.1, strength=5.0, half_life_s=1e6, age_cap_s=1e6),
        Categorical(name="hour", side="context", vocabulary=("0", "1")),
    )
)


def tensors_of(candidates: int, seed: int = 0) -> Tensors:
    """One request's tensors, all small numbers."""
    rng = np.random.default_rng(seed)
    tensors: Tensors = {}
    for spec in SCHEMA.tensors:
        shape = (candidates if spec.side == "item" else 1, *spec.shape)
        values = rng.integers(0, 4, shape) if spec.dtype == "int32" else rng.standard_normal(shape)
        tensors[spec.name] = values.astype(spec.dtype)
    return tensors


class ByFeature(nn.Module):
    """A ranker whose inputs are features by name, the user's repeated for each item as most libraries have it."""

    names = ("user_id", "age", "genres", "item_counts", "history_genres", "history_mask")

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.user, self.genre = nn.Embedding(21, 4), nn.Embedding(5, 4)
        self.deep = nn.Sequential(nn.Linear(4 + 1 + 4 + 3 + 4, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(
        self, user_id: Tensor, age: Tensor, genres: Tensor, item_counts: Tensor, history: Tensor, mask: Tensor
    ) -> Tensor:
        """[N], [N, 1], [N, 3], [N, 3], [N, 4, 3], [N, 4] → [N, 1]."""
        liked = (self.genre(history).mean(-2) * mask.unsqueeze(-1)).mean(1)
        parts = [self.user(user_id), age, self.genre(genres).mean(1), item_counts, liked]
        clicked: Tensor = torch.sigmoid(self.deep(torch.cat(parts, -1)))
        return clicked

    @staticmethod
    def examples() -> tuple[Tensor, ...]:
        """Of three rows."""
        return (
            torch.ones(3, dtype=torch.int64),
            torch.zeros(3, 1),
            torch.ones(3, 3, dtype=torch.int64),
            torch.zeros(3, 3),
            torch.ones(3, 4, 3, dtype=torch.int64),
            torch.zeros(3, 4),
        )


class TwoTasks(nn.Module):
    """A ranker of the schema's own tensors with the user once, and two heads of which the second rests on the first."""

    names = ("user_dense", "item_dense")

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.user, self.item = nn.Linear(2, 2), nn.Linear(5, 2)

    def forward(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """[1, 2], [N, 5] → [N] and [N]."""
        clicked, bought = torch.sigmoid(self.user(user) + self.item(item)).unbind(1)
        return clicked, clicked * bought

    @staticmethod
    def examples() -> tuple[Tensor, ...]:
        """Of three items."""
        return torch.zeros(1, 2), torch.zeros(3, 5)


def write_onnx(
    path: Path, module: nn.Module, names: Sequence[str], outputs: Sequence[str], axes: Mapping[str, Mapping[int, str]]
) -> Path:
    """The module's graph in a file."""
    path.write_bytes(to_onnx(module.eval(), module.examples(), names, outputs, axes))  # type: ignore[operator]
    return path


def write_by_feature(path: Path) -> Path:
    """`ByFeature`, its one output called `score`."""
    names = ByFeature.names
    return write_onnx(path, ByFeature(), names, ["score"], {name: {0: "batch"} for name in (*names, "score")})


def write_two_tasks(path: Path) -> Path:
    """`TwoTasks`, its outputs called `pctr` and `pcvr`."""
    outputs = ("pctr", "pcvr")
    return write_onnx(path, TwoTasks(), TwoTasks.names, outputs, {name: {0: "n"} for name in ("item_dense", *outputs)})
