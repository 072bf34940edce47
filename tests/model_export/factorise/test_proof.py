"""The proof finds what single precision hides, and says where."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from model_export.errors import ExportError
from model_export.factorise import elementwise, proof
from model_export.factorise.evaluate import Evaluator, as_double
from model_export.factorise.pass_ import Factorised, factorise
from model_export.factorise.proof import prove, prove_widest
from model_export.factorise.report import ALL_RULES
from msd.contract.schema import Side
from tests.model_export.factorise.graphs import feeds_of, graph_of, requests, sides_of, some

MODEL = graph_of(
    "g (float[1,4] user, float[N,4] item) => (float[N,2] y, float[N,4] z) "
    "{ x = Add (user, item) y = MatMul (x, w) z = Exp (x) }",
    w=some(4, 2),
)


@pytest.mark.parametrize(
    ("output", "tolerance", "message"),
    [
        (
            "e = Exp (x) z = Add (e, tiny)",
            1e-12,
            r"'z' differs by 1.0e-09 between the plain and the factorised graph in double precision \(1 candidates",
        ),
        ("e = Exp (x) z = Div (e, nought)", 1e-12, "output 'z' differs by inf"),
        ("z = Exp (user)", 100.0, r"output 'z' has the shape \(3, 4\), factorised \(1, 4\)"),
    ],
)
def test_wrong_output_is_found(monkeypatch: pytest.MonkeyPatch, output: str, tolerance: float, message: str) -> None:
    assert 0 <= prove(MODEL, sides_of(MODEL), requests(MODEL)) < 1e-14
    other = as_double(
        graph_of(
            "g (float[1,4] user, float[N,4] item) => (float[N,2] y, float[A,B] z) "
            f"{{ x = Add (user, item) y = MatMul (x, w) {output} }}",
            w=some(4, 2),
            tiny=1e-9,
            nought=0.0,
        )
    )

    def passed(model: onnx.ModelProto, sides: dict[str, Side], rules: object) -> Factorised:
        return Factorised(other, factorise(model, sides).report)

    monkeypatch.setattr(proof, "factorise", passed)
    with pytest.raises(ExportError, match=message):
        prove(MODEL, sides_of(MODEL), requests(MODEL), tolerance=tolerance)
    if "tiny" in output:
        assert prove(MODEL, sides_of(MODEL), requests(MODEL), tolerance=1e-8) == pytest.approx(1e-9, rel=1e-3)


def test_equal_infinities_and_nans_do_not_differ() -> None:
    model = graph_of("g (float[1,4] user, float[N,4] item) => (float[N,4] y) { x = Add (user, item) y = Log (x) }")
    feeds = {"user": np.zeros((1, 4), np.float32), "item": np.array([[-1, 0, 1, 2]], np.float32)}
    assert prove(model, sides_of(model), [feeds]) == 0


def test_every_float_becomes_a_double() -> None:
    model = graph_of(
        """g (float[1,4] user, float[N,4] item) => (float[N,4] y) {
            half = Constant <value_float = 0.5> () rows = Constant <value = float[1,4] {1, 2, 3, 4}> ()
            flags = Greater (item, user) ones = Cast <to = 1> (flags)
            shape = Shape (item) filled = ConstantOfShape <value = float[1] {2.0}> (shape)
            a = Mul (ones, half) b = Add (filled, rows) c = Add (a, b)
            y = LayerNormalization <axis = -1, stash_type = 1> (c, scale) }""",
        scale=some(4),
    )
    before = model.SerializeToString()
    double = as_double(model)
    assert model.SerializeToString() == before
    assert {value.type.tensor_type.elem_type for value in double.graph.input} == {TensorProto.DOUBLE}
    feeds = {name: value.astype(np.float64) for name, value in feeds_of(model, 3).items()}
    (found,) = Evaluator(double, "the graph").run(["y"], feeds)
    assert found.dtype == np.float64
    assert prove(model, sides_of(model), requests(model)) <= 1e-12


@pytest.mark.parametrize(
    ("operator", "width"), [("Relu", "fp64"), ("Sigmoid", "fp64"), ("Elu", None), ("Gelu", None), ("Mish", None)]
)
def test_proof_is_in_doubles_if_the_runtime_has_the_kernels(operator: str, width: str | None) -> None:
    model = graph_of(
        "g (float[1,4] user, float[N,4] item) => (float[N,4] y) { x = Add (user, item)"
        f" n = LayerNormalization (x, scale, shift) y = {operator} (n) }}",
        scale=some(4),
        shift=some(4, seed=1),
    )
    model.opset_import[0].version = 20
    worst, found = prove_widest(model, sides_of(model), requests(model), ALL_RULES)
    assert found == (width or found)
    assert worst <= (1e-12 if found == "fp64" else 1e-5)


def test_unknown_in_doubles_is_proved_in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "g (float[1,4] user, float[N,4] item) => (float[N,4] y) { x = Add (user, item) y = NAME (x) }"
    model, unknown = graph_of(text.replace("NAME", "Exp")), graph_of(text.replace("NAME", "Nobodys"))
    monkeypatch.setattr(proof, "as_double", lambda _: unknown)
    worst, width = prove_widest(model, sides_of(model), requests(model), ALL_RULES)
    assert (worst <= 1e-5, width) == (True, "fp32")


def test_failing_rule_is_reported_and_its_node_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(elementwise, "_arithmetic", failing)
    model = graph_of("g (float[1,4] user, float[N,4] item) => (float[N,4] y) { x = Add (user, item) y = Exp (x) }")
    report = factorise(model, sides_of(model)).report
    assert [entry.left for entry in report.entries if entry.left] == ["its rule failed: RuntimeError('out of luck')"]
