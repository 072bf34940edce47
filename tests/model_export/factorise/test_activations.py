"""Every activation beside every norm is proved, by whichever runtime has the operators in doubles."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from model_export.factorise import elementwise, proof
from model_export.factorise.pass_ import factorise
from model_export.factorise.proof import prove, prove_widest
from model_export.factorise.rule import ALL_RULES
from tests.model_export.factorise.activations import ACTIVATIONS, NORMS, exported
from tests.model_export.factorise.graphs import graph_of, requests, sides_of, some

# Each has no kernel for doubles in one of the runtimes, with the norm that another lacks.
OPERATORS = (
    "Elu Selu LeakyRelu Celu Softplus Softsign HardSigmoid HardSwish Mish Gelu Erf Sigmoid ThresholdedRelu Relu".split()
)
PAIRS = [("GELU", "layer", False), ("CELU", "layer", True), ("PReLU", "batch", True), ("Mish", "none", False)]


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_after_layer_norm_is_proved_in_doubles(operator: str) -> None:
    model = graph_of(
        "g (float[1,4] user, float[N,4] item) => (float[N,4] y) { x = Add (user, item)"
        f" n = LayerNormalization (x, scale, shift) y = {operator} (n) }}",
        scale=some(4),
        shift=some(4, seed=1),
    )
    model.opset_import[0].version = 20
    assert prove(model, sides_of(model), requests(model)) <= 1e-12


@pytest.mark.parametrize(("activation", "norm", "dynamo"), PAIRS)
def test_what_torch_exports_is_proved(activation: str, norm: str, dynamo: bool) -> None:
    model = exported(ACTIVATIONS[activation], NORMS[norm], dynamo=dynamo)
    assert prove(model, sides_of(model), requests(model)) <= 1e-12


def test_what_nothing_runs_in_doubles_is_proved_in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    model = graph_of("g (float[1,4] user, float[N,4] item) => (float[N,4] y) { x = Add (user, item) y = Exp (x) }")
    unknown = graph_of(
        "g (float[1,4] user, float[N,4] item) => (float[N,4] y) { x = Add (user, item) y = Nobodys (x) }"
    )
    monkeypatch.setattr(proof, "as_double", lambda _: unknown)
    worst, width = prove_widest(model, sides_of(model), requests(model), ALL_RULES)
    assert (worst <= 1e-5, width) == (True, "fp32")


def test_a_rule_that_fails_in_any_way_is_reported_and_its_node_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(elementwise, "_arithmetic", failing)
    model = graph_of("g (float[1,4] user, float[N,4] item) => (float[N,4] y) { x = Add (user, item) y = Exp (x) }")
    report = factorise(model, sides_of(model)).report
    assert [entry.left for entry in report.entries if entry.left] == ["its rule failed: RuntimeError('out of luck')"]


def test_the_norms_epsilon_and_axes_are_those_of_torch() -> None:
    torch.manual_seed(2)
    norm = nn.LayerNorm(8, eps=0.3)
    model = exported(nn.GELU, lambda width: norm, dynamo=False)
    onnx.checker.check_model(model)
    feeds = requests(model)
    assert prove(model, sides_of(model), feeds) <= 1e-12
    assert np.isfinite(feeds[0]["item"]).all()
