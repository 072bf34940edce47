"""Every example runs, as far as this machine has its language."""

import ast
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml

from msd.contract.bundle import open_bundle
from msd.contract.request import ScoreRequest
from msd.dataset.load import load_dataset
from msd.demo.instant import BUNDLE
from msd.nightly.config import NightlyConfig
from msd.training.folder import load_ranker
from tests.chart.values import CHART, merged, values
from tests.dataset.tiny import write_tiny_dataset
from tests.docs.pages import blocks
from tests.ranker.made import write_small_student
from tests.service.live import ROOT, LiveService, live_service, run_msd

EXAMPLES = ROOT / "examples"
CLIENTS = {"score.sh": ["sh"], "Score.java": ["java"], "score.go": ["go", "run"]}
NAMES = "user_counts,item_counts,price"
MODELS = {"pytorch.py": "", "keras_model.py": NAMES, "trees.py": NAMES}
"""The columns of a model's matrix, or nothing if it has an input for each."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    with live_service(BUNDLE, tmp_path_factory.mktemp("service")) as live:
        yield live


@pytest.mark.parametrize("name", [name for name, (program, *_) in CLIENTS.items() if shutil.which(program)])
def test_client_prints_the_ranking(name: str, service: LiveService) -> None:
    line = [*CLIENTS[name], str(EXAMPLES / "clients" / name), service.url]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)

    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["candidates"]["id"] == ["greenhouses-1", "ice-axes-1"]


@pytest.mark.parametrize("name", CLIENTS)
def test_clients_body_is_a_request(name: str) -> None:
    text = (EXAMPLES / "clients" / name).read_text("utf-8")
    (body,) = re.findall(r"^ *\{$.*?^ *\}$|(?<=')\{$.*?^\}(?=')|(?<=`)\{$.*?^\}(?=`)", text, re.MULTILINE | re.DOTALL)

    assert ScoreRequest.model_validate_json(body).candidates.id == ["ice-axes-1", "greenhouses-1"]


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("model")
    dataset = write_tiny_dataset(folder / "data", users=30, items=40)
    assert run_msd("tensors", str(dataset), str(folder / "tensors")).returncode == 0
    return dataset, folder / "tensors"


@pytest.mark.parametrize("name", MODELS)
def test_own_model_is_trained_and_exported(
    name: str, tensors: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, rows = tensors
    graph, bundle = tmp_path / "model.onnx", tmp_path / "bundle"
    example = EXAMPLES / "own_model" / name
    monkeypatch.setattr(sys, "argv", list(map(str, filter(None, [example, rows, graph, MODELS[name]]))))
    # Here, where torch is loaded; its libraries may warn of themselves.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runpy.run_path(str(example), run_name="__main__")
    options = ["--columns", MODELS[name]] if MODELS[name] else []
    exported = run_msd("export", "--onnx", str(graph), str(dataset), str(bundle), "--requests", "40", *options)

    assert exported.returncode == 0, exported.stderr
    assert open_bundle(bundle).manifest.provenance["parity"]["requests"] == 40


def test_two_processes_train_one_model(tensors: tuple[Path, Path], tmp_path: Path) -> None:
    """Both average their gradients, and so end with the same weights and valid AUC."""
    dataset, student, model = tensors[0], tmp_path / "student", tmp_path / "model"
    write_small_student(student, load_dataset(dataset))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line = [
        *torchrun,
        "examples/cluster/train.py",
        str(dataset),
        str(student),
        str(model),
        *("--epochs", "1", "--without", "taste"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "300"}
    ended = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)

    assert ended.returncode == 0, ended.stderr
    said = re.findall(r"valid AUC [\d.]+", ended.stdout)
    assert said == 2 * [f"valid AUC {load_ranker(model).record.curve[0].valid_auc:.4f}"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.name)
def test_python_is_python(path: Path) -> None:
    ast.parse(path.read_text("utf-8"))


def test_night_is_configured(tmp_path: Path) -> None:
    copied = shutil.copy(EXAMPLES / "nightly/nightly.toml", tmp_path)

    assert NightlyConfig.read(Path(copied)).bundles == tmp_path / "bundles"


def test_values_fit_the_chart() -> None:
    """Those of the example, and of the page on Kubernetes; its `rules` are of Prometheus' adapter."""
    shown = [block.text.replace("…", "0" * 64) for block in blocks("yaml") if block.page.name == "kubernetes.md"]
    sets = [yaml.safe_load(text) for text in [(EXAMPLES / "kubernetes/values.yaml").read_text("utf-8"), *shown]]
    defaults = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    named = {name for block in blocks("sh") for name in re.findall(r"--set '?([\w.]+)=", block.text)}

    for given in sets:
        if "rules" not in given:
            jsonschema.validate(merged(defaults, given), schema)
    assert {"image.repository", "bundle.fetch.url"} <= named <= {value.path for value in values()}


def test_every_example_is_listed() -> None:
    page = (EXAMPLES / "README.md").read_text("utf-8")
    kept = subprocess.run(["git", "ls-files", "examples"], cwd=ROOT, capture_output=True, text=True, check=True)

    assert set(re.findall(r"\w+/[\w.]+\.\w+", page)) >= {
        name.removeprefix("examples/") for name in kept.stdout.split() if not name.endswith("README.md")
    }
