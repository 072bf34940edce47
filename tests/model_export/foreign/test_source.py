"""A third-party ranker becomes a bundle that scores as its graph does, or is rejected by name."""

import ast
import json
import tomllib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model_export.errors import ExportError
from model_export.export import export_bundle
from model_export.foreign.source import load_foreign
from msd.__main__ import main
from msd.contract.bundle import GOLDENS, MARKER, Bundle, open_bundle
from msd.contract.golden import read_goldens
from msd.contract.instructions import adds_int8_exactly, cpu_instructions
from msd.contract.precision import Precision
from msd.dataset.load import load_dataset
from msd.ranker.schema_fit import fit_schema
from msd.ranker.tensor_folder import TensorFolderError, write_tensors
from msd.student.vectors import load_vectors
from native.bundle_rows import BundleRows
from service.runtimes.onnxruntime import OnnxRuntime
from tests.model_export.conftest import Run, quiet
from tests.model_export.foreign.made import write_onnx

NAMES = ("user_id", "item_id", "topics", "price", "item_counts", "history_topics", "history_mask")
Names = Sequence[str]
Write = Callable[..., Path]


class Theirs(nn.Module):
    """A small ranker with heads, whose inputs all have a row for each item, as most libraries have it."""

    def __init__(self, run: Run, heads: int = 2, semantic: int = 0) -> None:
        super().__init__()
        torch.manual_seed(3)
        schema = fit_schema(load_dataset(run.dataset), semantics=bool(semantic))
        sizes = {field.name: field.size for side in ("user", "item") for field in schema.indexed(side)}
        self.users, self.items = nn.Embedding(sizes["user_id"], 16), nn.Embedding(sizes["item_id"], 16)
        self.topics, self.length = nn.Embedding(sizes["topics"], 16), schema.history.length
        self.deep = nn.Sequential(nn.Linear(64 + 2 + 3 + semantic, 32), nn.ReLU(), nn.Linear(32, heads))
        self.semantic = semantic

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The inputs of NAMES, and an item's vector if there is one → a head [N] each."""
        user, item, topics, price, counts, liked, mask, *vector = given
        history = (self.topics(liked).mean(-2) * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        parts = [self.users(user), self.items(item), self.topics(topics).mean(1), history, price, counts, *vector]
        return self.last(self.deep(torch.cat(parts, -1))).unbind(-1)

    def last(self, logits: Tensor) -> Tensor:
        """Logits → heads [N, H]."""
        return torch.sigmoid(logits)

    def examples(self) -> tuple[Tensor, ...]:
        """Of two rows."""
        ids = [torch.ones(2, dtype=torch.int64), torch.ones(2, dtype=torch.int64), torch.ones(2, 3, dtype=torch.int64)]
        numbers = [torch.zeros(2, 2), torch.zeros(2, 3)]
        history = [torch.ones(2, self.length, 3, dtype=torch.int64), torch.zeros(2, self.length)]
        return (*ids, *numbers, *history, *([torch.zeros(2, self.semantic)] if self.semantic else []))


class Logits(Theirs):
    """Somebody forgot the sigmoid."""

    def last(self, logits: Tensor) -> Tensor:
        """Logits as they are."""
        return 9.0 * logits


class Wide(Theirs):
    """A head of two numbers an item, which its graph does not say."""

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The two heads as one."""
        return (torch.stack(super().forward(*given), -1).reshape(given[1].shape[0], -1),)


@pytest.fixture
def write(run: Run, tmp_path: Path) -> Write:
    def go(module: nn.Module, names: Names = NAMES, outputs: Names = ("pctr", "pcvr")) -> Path:
        axes = {name: {0: "rows"} for name in (*names, *outputs)}
        return write_onnx(tmp_path / "theirs.onnx", module, names, outputs, axes)

    return go


def _serves(bundle: Bundle, precision: Precision = "fp32") -> dict[str, float]:
    """Return the greatest difference of the service's runtime from the goldens, by head."""
    runtime, rows = OnnxRuntime(bundle, "cpu", 1, precision), BundleRows.of(bundle)
    worst = dict.fromkeys(bundle.manifest.heads, 0.0)
    for golden in read_goldens(bundle.path(GOLDENS)):
        assert set(golden.expected) == set(worst)
        found = runtime.run(rows.tensors(golden))
        for head, scores in golden.expected.items():
            worst[head] = max(worst[head], float(np.abs(found[head] - scores).max()))
    return worst


def test_command_exports_graph_with_named_heads(
    run: Run, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out, report = write(Theirs(run), outputs=("a", "b")), tmp_path / "bundle", tmp_path / "report.json"
    options = ["--head", "pctr=b", "--head", "sold=a", "--explain", report, "--requests", "60"]
    command = ["export", "--onnx", path, run.dataset, out, *options]
    with pytest.raises(SystemExit, match="0"):
        main([str(one) for one in command])
    assert "written; onnxruntime and the graph given differ by" in " ".join(capsys.readouterr().out.split())
    bundle = open_bundle(out)
    assert bundle.manifest.heads == ("pctr", "sold")
    assert all(worst <= 1e-6 for worst in _serves(bundle).values())
    assert "linear" in json.loads(report.read_text("utf-8"))["rules"]
    with pytest.raises(SystemExit, match="0"):
        main([str(one) for one in command])
    assert "done before" in capsys.readouterr().out


def test_torchs_default_export_becomes_a_bundle(run: Run, tmp_path: Path) -> None:
    module, path = Theirs(run, heads=1).eval(), tmp_path / "theirs.onnx"
    rows = ({0: torch.export.Dim("rows")},) * len(NAMES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, module.examples(), path, input_names=list(NAMES), dynamic_shapes=(rows,), dynamo=True, verbose=False
        )
    assert (tmp_path / "theirs.onnx.data").is_file()  # where it puts weights unasked
    export_bundle(load_foreign(path, run.dataset, None, None, {}), tmp_path / "bundle", None, 12, quiet)
    assert (tmp_path / "bundle" / MARKER).is_file()  # verified before it is in its place
    assert _serves(open_bundle(tmp_path / "bundle"))["pctr"] <= 1e-6


def test_int8_is_proved_for_every_head(run: Run, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_export.precision.choice.AUC_BOUND", 1.0)
    monkeypatch.setattr("model_export.precision.choice.ECE_BOUND", 1.0)
    monkeypatch.setattr("model_export.precision.choice.LOGLOSS_BOUND", 1.0)
    # Conversions would be judged as well, and this dataset has none.
    foreign = load_foreign(write(Theirs(run), outputs=("a", "b")), run.dataset, None, None, {"pctr": "b", "sold": "a"})
    if not adds_int8_exactly(cpu_instructions()):
        with pytest.raises(ExportError, match="has no VNNI"):
            export_bundle(foreign, tmp_path / "bundle", None, 60, quiet, "int8", 20)
        return
    assert export_bundle(foreign, tmp_path / "bundle", None, 60, quiet, "int8", 20)
    bundle = open_bundle(tmp_path / "bundle")
    tolerance = bundle.manifest.tolerances["onnxruntime-cpu-int8"]
    assert all(worst <= tolerance for worst in _serves(bundle, "int8").values())


def test_vectors_and_encoder_are_those_of_training(run: Run, write: Write, tmp_path: Path) -> None:
    tensors = tmp_path / "tensors"
    write_tensors(load_dataset(run.dataset), load_vectors(run.student), True, tensors, quiet)
    path = write(Theirs(run, heads=1, semantic=64), (*NAMES, "item_semantic"), ("score",))
    foreign = load_foreign(path, run.dataset, tensors, run.student, {})
    assert export_bundle(foreign, tmp_path / "bundle", None, 60, quiet)
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.path("encoder.onnx").is_file()
    assert bundle.manifest.provenance["student"] == load_vectors(run.student).student
    assert _serves(bundle)["pctr"] <= 1e-6


def test_rejects_folders_that_do_not_match(run: Run, write: Write, tmp_path: Path) -> None:
    tensors, path = tmp_path / "tensors", write(Theirs(run))
    write_tensors(load_dataset(run.dataset), load_vectors(run.student), True, tensors, quiet)
    with pytest.raises(TensorFolderError, match="has vectors of a student; say where the student is with --student"):
        load_foreign(path, run.dataset, tensors, None, {})
    record = json.loads((tensors / "tensors.json").read_text("utf-8"))
    for key, message in (("student", "has the vectors of another student"), ("dataset", "is of another state of the")):
        (tensors / "tensors.json").write_text(json.dumps({**record, key: "f" * 64}), "utf-8")
        with pytest.raises(TensorFolderError, match=message):
            load_foreign(path, run.dataset, tensors, run.student, {})
    strange = write(Theirs(run), ("nobody", *NAMES[1:]))
    with pytest.raises(ExportError, match=r"theirs.onnx: the graph's input 'nobody' is not in the schema"):
        load_foreign(strange, run.dataset, None, None, {})


@pytest.mark.parametrize(
    ("kind", "outputs", "message"),
    [
        (Logits, ("pctr", "pcvr"), r"the head 'pctr' scores -?\d.* on a real row, which is not a probability"),
        (Wide, ("pctr",), r"the head 'pctr' has the shape \[5, 2\] for 5 candidates"),
    ],
)
def test_rejects_scores_that_are_not_probabilities(
    run: Run, write: Write, tmp_path: Path, kind: type[Theirs], outputs: Names, message: str
) -> None:
    path = write(kind(run), outputs=outputs)
    with pytest.raises(ExportError, match=message):
        export_bundle(load_foreign(path, run.dataset, None, None, {}), tmp_path / "bundle", None, 12, quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.onnx"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "b"), "give DATASET KNOWLEDGE STUDENT MODEL OUT, DATASET STUDENT MODEL OUT"),
        ((), "0 folders are given"),
        (("a", "b", "c", "d", "e", "--head", "f=g"), "--student, --head and --columns are for --onnx"),
        (("--onnx", "x.onnx"), "--onnx FILE takes two folders, DATASET OUT"),
        (
            ("--onnx", "x.onnx", "d", "o", "--head", "pctr"),
            "give HEAD=OUTPUT, such as pctr=score",
        ),
    ],
)
def test_rejects_arguments_that_exclude_each_other(
    arguments: Names, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit, match="2"):
        main(["export", *arguments])
    assert message in " ".join(capsys.readouterr().err.split())


ROOT = Path(__file__).parents[3]
CODE = (ROOT / "examples" / "own_model" / "deepfm.py").read_text("utf-8")


def test_example_uses_names_of_the_dataset() -> None:
    lists = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(CODE).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in ("SINGLE", "MANY", "NUMBERS")
    }
    dataset = tomllib.loads((ROOT / "msd" / "dataset" / "ml_100k.toml").read_text("utf-8"))
    kinds = {feature["name"]: feature["kind"] for feature in dataset["features"]}
    single = {name for name, kind in kinds.items() if kind == "categorical"} | {"user_id", "item_id"}
    assert set(lists["SINGLE"]) == single
    assert set(lists["MANY"]) == {name for name, kind in kinds.items() if kind == "bag"} | {"history_item_id"}
    numbers = {name for name, kind in kinds.items() if kind == "numeric"}
    assert set(lists["NUMBERS"]) == numbers | {"user_counts", "item_counts"}
