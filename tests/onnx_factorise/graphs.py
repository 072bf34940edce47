"""Graphs that the pass is tried on, and feeds: small ones written as text, and torch models of shapes that rankers may
have, each of which takes (user [1, 4], history [1, T, 4], item [N, 4]). The item axis is N.
"""

import warnings
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

COUNTS = (1, 3, 50, 200)
Feeds = Mapping[str, NDArray[Any]]


def graph_of(text: str, **weights: object) -> onnx.ModelProto:
    """The model of a graph in onnx's own notation; `weights` are its initializers, floats unless they are whole."""
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 18]> {text}')
    for name, value in weights.items():
        array = np.asarray(value)
        model.graph.initializer.append(
            numpy_helper.from_array(array.astype(np.int64 if array.dtype.kind == "i" else np.float32), name)
        )
    return model


def some(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def two_tables(rows: tuple[int, int]) -> onnx.ModelProto:
    """Two tables of `rows` each, whose rows are looked up by two columns of an item and joined."""
    return graph_of(
        """g (float[1,3] user, int64[N,2] item) => (float[N,K] y) {
            first = Gather <axis = 1> (item, zero) second = Gather <axis = 1> (item, one)
            left = Gather (table, first) right = Gather (other, second) y = Concat <axis = 1> (left, right, left) }""",
        zero=0,
        one=1,
        table=some(rows[0], 3),
        other=some(rows[1], 3),
    )


def feeds_of(model: onnx.ModelProto, candidates: int, seed: int = 0, **lengths: int) -> dict[str, NDArray[Any]]:
    """One request: numbers as they come, outcomes above 0, masks of noughts and ones, indices from 0 to 4."""
    rng = np.random.default_rng((seed, candidates))
    feeds = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        names = {"N": candidates, "candidates": candidates, **lengths}
        shape = [names[dim.dim_param] if dim.dim_param else dim.dim_value for dim in tensor.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if dtype.kind != "f":
            feeds[value.name] = rng.integers(0, 5, shape).astype(dtype)
        elif "mask" in value.name:
            feeds[value.name] = (rng.random(shape) < 0.7).astype(dtype)
        else:
            feeds[value.name] = rng.standard_normal(shape).astype(dtype)
            if "outcomes" in value.name:
                feeds[value.name] = np.abs(feeds[value.name])
    return feeds


def requests(model: onnx.ModelProto, **lengths: int) -> list[Feeds]:
    """Feeds of one, a few and many candidates."""
    return [feeds_of(model, count, seed=count, **lengths) for count in COUNTS]


PLACES = 5
WIDTH = 4
_EXAMPLE_CANDIDATES = 3


class Listwise(nn.Module):
    """A softmax over the candidates: each score depends on all."""

    def forward(self, user: Tensor, history: Tensor, item: Tensor) -> Tensor:
        scores: Tensor = (item * user).sum(-1)
        return torch.softmax(scores + history.mean(), 0)


class ItemsToItems(nn.Module):
    """Attention among the candidates, N × N."""

    def forward(self, user: Tensor, history: Tensor, item: Tensor) -> Tensor:
        weights = torch.softmax(item @ item.T / 2, -1)
        return (weights @ item * user).sum(-1) + history.mean(1).sum(-1)


class ManyHeads(nn.Module):
    """torch's own attention, of each candidate over the history."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, user: Tensor, history: Tensor, item: Tensor) -> Tensor:
        rows = history.expand(item.shape[0], *history.shape[1:])
        seen, _ = self.attention(item.unsqueeze(1), rows, rows)
        scores: Tensor = (seen.squeeze(1) * user).sum(-1)
        return scores


class Transformed(nn.Module):
    """A transformer's layer over history and target (BST, arXiv 1905.06874)."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, PLACES + 1, WIDTH))
        self.query, self.key, self.value, self.feed = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))

    def forward(self, user: Tensor, history: Tensor, item: Tensor) -> Tensor:
        rows = torch.cat([history.expand(item.shape[0], *history.shape[1:]), item.unsqueeze(1)], 1) + self.positions
        weights = torch.softmax(self.query(rows) @ self.key(rows).transpose(1, 2), -1)
        rows = self.norms[0](rows + weights @ self.value(rows))
        rows = self.norms[1](rows + torch.relu(self.feed(rows)))
        scores: Tensor = (rows.mean(1) * user).sum(-1)
        return scores


class Recurrent(nn.Module):
    """A GRU over the history alone, and one over history and target."""

    def __init__(self) -> None:
        super().__init__()
        self.alone, self.together = (nn.GRU(width, WIDTH, batch_first=True) for width in (WIDTH, 2 * WIDTH))

    def forward(self, user: Tensor, history: Tensor, item: Tensor) -> Tensor:
        _, state = self.alone(history)
        n, places = item.shape[0], history.shape[1]
        both = [history.expand(n, places, WIDTH), item.unsqueeze(1).expand(n, places, WIDTH)]
        _, last = self.together(torch.cat(both, -1))
        scores: Tensor = (last[-1] * item * state[-1] * user).sum(-1)
        return scores


class Sorted(nn.Module):
    """The order of the candidates' own numbers, and of the candidates."""

    def forward(self, user: Tensor, history: Tensor, item: Tensor) -> Tensor:
        rows, _ = torch.sort(item * user, -1)
        first = torch.topk(rows.sum(-1), 1).values
        return rows[:, -1] - rows[:, 0] + first + history.mean()


class Masked(nn.Module):
    """Scores masked by −∞ before a softmax over history and target; a whole history may be masked."""

    def forward(self, user: Tensor, history: Tensor, item: Tensor) -> Tensor:
        scores = history.sum(-1).masked_fill(history[..., 0] < 3, float("-inf"))
        own = (item * user).sum(-1, keepdim=True)
        weights = torch.softmax(torch.cat([scores.expand(item.shape[0], -1), own], -1), -1)
        rows = torch.cat([history.expand(item.shape[0], *history.shape[1:]), item.unsqueeze(1)], 1)
        return (weights.unsqueeze(-1) * rows).sum((1, 2))


class Dotted(nn.Module):
    """Target attention by dot products, the history as it comes, of any length."""

    def forward(self, user: Tensor, history: Tensor, item: Tensor) -> Tensor:
        scores = torch.matmul(history.expand(item.shape[0], -1, -1), item.unsqueeze(-1)).squeeze(-1)
        seen = torch.matmul(torch.softmax(scores, -1).unsqueeze(1), history).squeeze(1)
        return (seen * user).sum(-1)


class Normed(nn.Module):
    """Batch norm, PReLU and einsum, as older CTR models have them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.slope = nn.BatchNorm1d(2 * WIDTH), nn.PReLU(2 * WIDTH)
        self.norm.running_mean = torch.linspace(-1, 1, 2 * WIDTH)
        self.norm.running_var = torch.linspace(0.5, 2, 2 * WIDTH)
        self.head = nn.Linear(2 * WIDTH, 1)

    def forward(self, user: Tensor, history: Tensor, item: Tensor) -> Tensor:
        x = torch.cat([user.expand(item.shape[0], -1), item], -1)
        scores = torch.einsum("btd,nd->ntb", history, item).squeeze(-1)
        logits: Tensor = self.head(self.slope(self.norm(x))).squeeze(-1)
        return logits + scores.amax(-1) + torch.einsum("nd,nd->n", item, item)


ODD = (Listwise, ItemsToItems, ManyHeads, Transformed, Recurrent, Sorted, Masked, Dotted, Normed)


def odd(kind: type[nn.Module], *, any_length: bool = False) -> onnx.ModelProto:
    torch.manual_seed(3)
    examples = (torch.randn(1, WIDTH), torch.randn(1, PLACES, WIDTH), torch.randn(_EXAMPLE_CANDIDATES, WIDTH))
    axes = {"item": {0: "N"}, "score": {0: "N"}} | ({"history": {1: "L"}} if any_length else {})
    names = ["user", "history", "item"]
    file: Any = BytesIO()  # torch says that it takes paths alone
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            kind().eval(),
            examples,
            file,
            input_names=names,
            output_names=["score"],
            dynamic_axes=axes,
            opset_version=18,
            dynamo=False,
        )
    return onnx.load_from_string(file.getvalue())
