"""The lean ranker: of the same rows as the one beside it, found again, and refused beside another."""

import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from msd.dataset.split import Part
from msd.ranker.networks import LeanRanker
from msd.step import STEP_FILE
from msd.training.folder import RECORD_FILE, WEIGHTS_FILE, ModelFolderError, RankerRecord, load_ranker, save_ranker
from msd.training.lean import LEAN_FOLDER, load_lean, train_lean
from msd.training.train import predict
from tests.ranker.made import SHORT, Run, World, quiet, save_world


def train(world: World, folder: Path) -> RankerRecord:
    """The lean ranker of a folder's, for an epoch."""
    return train_lean(folder, world.dataset, world.vectors, SHORT, nullcontext(quiet))


@pytest.fixture(scope="module")
def model(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_world(tmp_path_factory.mktemp("lean") / "model", world)
    train(world, folder)
    return folder


def test_lean_ranker_reads_the_full_ones_rows(world: World, model: Path) -> None:
    lean = load_lean(model)
    assert lean is not None
    assert isinstance(lean.ranker, LeanRanker)
    assert lean.schema == world.model.schema
    for name, weight in world.model.adaptors.state_dict().items():
        assert torch.equal(lean.adaptors.state_dict()[name], weight), name
    scores = predict(lean, world.features, world.features.of_part(Part.TEST))
    assert np.isfinite(scores).all()
    assert scores.std() > 0
    assert len(list(lean.ranker.parameters())) < len(list(world.model.ranker.parameters()))


def test_lean_ranker_is_trained_once(world: World, model: Path) -> None:
    before = (model / LEAN_FOLDER / WEIGHTS_FILE).stat().st_mtime_ns
    record = train(world, model)
    assert (model / LEAN_FOLDER / WEIGHTS_FILE).stat().st_mtime_ns == before
    assert record == load_ranker(model / LEAN_FOLDER)[1]
    names = [path.name for path in (model / LEAN_FOLDER).iterdir()]
    assert sorted(names) == sorted([RECORD_FILE, WEIGHTS_FILE, STEP_FILE])


def test_rejects_lean_ranker_of_another_model(world: World, model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    changed = load_ranker(tmp_path / "model")
    next(changed[0].parameters()).data += 1
    save_ranker(tmp_path / "model", *changed)
    with pytest.raises(ModelFolderError, match="was trained beside another model"):
        load_lean(tmp_path / "model")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda lean: (lean / STEP_FILE).unlink(), "or is unfinished; run `msd lean` again"),
        (lambda lean: (lean / WEIGHTS_FILE).write_bytes(b"no"), "not the weights of ranker.json"),
        (lambda lean: (lean / RECORD_FILE).write_text("{}"), "ranker.json"),
    ],
)
def test_rejects_damaged_lean_ranker(model: Path, tmp_path: Path, damage: object, said: str) -> None:
    shutil.copytree(model, tmp_path / "model")
    assert callable(damage)
    damage(tmp_path / "model" / LEAN_FOLDER)
    with pytest.raises(ModelFolderError, match=said):
        load_lean(tmp_path / "model")


def test_retraining_the_model_removes_its_lean_ranker(
    tiny_folder: Path, student: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "model"
    assert run("train", tiny_folder, student, out, "--epochs", "1")[0] == 0
    code, said = run("lean", tiny_folder, student, out, "--epochs", "1")
    assert (code, "valid AUC" in said) == (0, True), said
    assert load_lean(out) is not None
    assert run("train", tiny_folder, student, out, "--epochs", "1", "--seed", "1")[0] == 0
    assert load_lean(out) is None


def test_rejects_folders_that_do_not_fit(tiny_folder: Path, world: World, tmp_path: Path, run: Run) -> None:
    model = save_world(tmp_path / "model", world)
    code, said = run("lean", tiny_folder, model)
    assert (code, "was trained with a student, so give its folder before that of the model" in said) == (2, True), said
    assert run("lean", tiny_folder, tmp_path, model, tmp_path)[0] == 2
    code, said = run("lean", tiny_folder, tmp_path / "nothing")
    assert (code, "no trained model here" in said) == (2, True), said
