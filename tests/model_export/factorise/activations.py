"""Small networks of every activation × every norm, by both of torch's exporters.

`python -m tests.model_export.factorise.activations` proves all of them, which takes a minute or two.
"""

import itertools
import sys
import warnings
from collections.abc import Callable, Mapping

import onnx
import torch
from torch import Tensor, nn

from model_export.errors import ExportError
from model_export.factorise.proof import prove
from model_export.graph import to_onnx
from tests.model_export.factorise.graphs import requests, sides_of

_WIDTH = 8
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
    def __init__(self, activation: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(_WIDTH, _WIDTH), norm, activation, nn.Linear(_WIDTH, 1), nn.Sigmoid())

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        scores: Tensor = self.layers(torch.cat([user.expand(item.shape[0], -1), item], -1)).squeeze(-1)
        return scores


def exported(activation: Callable[[], nn.Module], norm: Callable[[int], nn.Module], *, dynamo: bool) -> onnx.ModelProto:
    """One of them, by the newer exporter or the older."""
    torch.manual_seed(1)
    network = _Network(activation(), norm(_WIDTH)).eval()
    examples = (torch.randn(1, _WIDTH // 2), torch.randn(3, _WIDTH // 2))
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


def main() -> None:
    """Proves every one, and names those that cannot be."""
    failed = 0
    for (name, activation), (norm, made), dynamo in itertools.product(
        ACTIVATIONS.items(), NORMS.items(), (False, True)
    ):
        model = exported(activation, made, dynamo=dynamo)
        try:
            prove(model, sides_of(model), requests(model))
        except ExportError as error:
            failed += 1
            sys.stderr.write(f"{name}, norm {norm}, dynamo {dynamo}: {error}\n")
    sys.stdout.write(f"{2 * len(ACTIVATIONS) * len(NORMS)} networks, {failed} not proved\n")


if __name__ == "__main__":
    main()
