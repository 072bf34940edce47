"""Small networks of every activation × every norm, by both of torch's exporters.

`python -m tests.model_export.factorise.activations` proves all of them, and races wider ones, plain against what is
served: some minutes, on an otherwise idle machine.
"""

import itertools
import json
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from statistics import median

import onnx
import torch
from torch import Tensor, nn

from model_export.errors import ExportError
from model_export.factorise.pass_ import factorise
from model_export.factorise.proof import prove
from model_export.fast_graph import WAYS, pick
from model_export.graph import to_onnx
from model_export.run import median_microseconds, open_run
from tests.model_export.factorise.graphs import feeds_of, requests, sides_of

_WIDTH, _WIDE = 8, 256
_CANDIDATES = 200
_NAMES = (
    "ReLU LeakyReLU ELU PReLU SELU CELU GELU Softplus Softsign SiLU Mish Hardswish Hardsigmoid Hardtanh ReLU6 Tanh"
    " Sigmoid LogSigmoid Tanhshrink Softshrink Hardshrink"
)
ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {name: getattr(nn, name) for name in _NAMES.split()}
NORMS: Mapping[str, Callable[[int], nn.Module]] = {
    "none": lambda width: nn.Identity(),
    "layer": nn.LayerNorm,
    "batch": nn.BatchNorm1d,
}


class _Network(nn.Module):
    def __init__(self, activation: nn.Module, norm: nn.Module, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), norm, activation, nn.Linear(width, 1), nn.Sigmoid())

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        scores: Tensor = self.layers(torch.cat([user.expand(item.shape[0], -1), item], -1)).squeeze(-1)
        return scores


def exported(
    activation: Callable[[], nn.Module], norm: Callable[[int], nn.Module], *, dynamo: bool, width: int = _WIDTH
) -> onnx.ModelProto:
    """One of them, by the newer exporter or the older."""
    torch.manual_seed(1)
    network = _Network(activation(), norm(width), width).eval()
    examples = (torch.randn(1, width // 2), torch.randn(3, width // 2))
    if not dynamo:
        axes = {"item": {0: "N"}, "pctr": {0: "N"}}
        return onnx.load_from_string(to_onnx(network, examples, ("user", "item"), ("pctr",), axes))
    many = torch.export.Dim("N", min=1, max=100_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            examples,
            dynamo=True,
            dynamic_shapes=(None, {0: many}),
            input_names=["user", "item"],
            output_names=["pctr"],
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _race(model: onnx.ModelProto) -> tuple[str, float]:
    """Which graph would be served, and its time ÷ the plain one's when both are timed anew."""
    sides, heads = sides_of(model), ["pctr"]
    graphs = {"plain": model, **{name: factorise(model, sides, rules).model for name, rules in WAYS.items()}}
    runs = {name: open_run(one.SerializeToString(), "fp32", heads) for name, one in graphs.items()}
    feeds = feeds_of(model, _CANDIDATES)
    served = pick(median_microseconds(runs, feeds))
    again = median_microseconds(runs, feeds)
    return served, again[served] / again["plain"]


def main() -> None:
    """Proves every one, names those that cannot be, and prints what the races found."""
    failed, served, ratios = 0, Counter[str](), []
    for (name, activation), (norm, made), dynamo in itertools.product(
        ACTIVATIONS.items(), NORMS.items(), (False, True)
    ):
        model = exported(activation, made, dynamo=dynamo)
        try:
            prove(model, sides_of(model), requests(model))
        except ExportError as error:
            failed += 1
            sys.stderr.write(f"{name}, norm {norm}, dynamo {dynamo}: {error}\n")
            continue
        chosen, ratio = _race(exported(activation, made, dynamo=dynamo, width=_WIDE))
        served[chosen] += 1
        ratios.append(ratio)
    of_time = {"median": median(ratios), "slowest": max(ratios)}
    found = {"networks": failed + len(ratios), "not_proved": failed, "served": served, "served_to_plain": of_time}
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
