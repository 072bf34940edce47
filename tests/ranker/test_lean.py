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
from msd.student.record import VECTOR_DIM
from msd.training.folder import RECORD_FILE, WEIGHTS_FILE, ModelFolderError, RankerRecord, load_ranker, save_ranker
from msd.training.lean import LEAN_FOLDER, load_lean, train_lean
from msd.training.train import predict
from tests.ranker.made import SHORT, SMALL, Run, World, quiet


def save(world: World, folder: Path) -> Path:
    """The world's ranker as `msd train` leaves it."""
    record = RankerRecord(
        feature_schema=world.schema,
        config=SMALL,
        training={"seed": 0},
        curve=tuple(world.curve),
        vector_dim=VECTOR_DIM,
        dataset=world.dataset.fingerprint,
        student=world.vectors.student,
    )
    save_ranker(folder, world.model, record)
    return folder


def train(world: World, folder: Path) -> RankerRecord:
    """The lean ranker of a folder's, for an epoch."""
    return train_lean(folder, world.dataset, world.vectors, SHORT, lambda name: nullcontext(quiet))


@pytest.fixture(scope="module")
def model(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a lean one."""
    folder = save(world, tmp_path_factory.mktemp("lean") / "model")
    train(world, folder)
    return folder


def test_it_reads_the_rows_of_the_other(world: World, model: Path) -> None:
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


def test_it_is_trained_once(world: World, model: Path) -> None:
    before = (model / LEAN_FOLDER / WEIGHTS_FILE).stat().st_mtime_ns
    record = train(world, model)
    assert (model / LEAN_FOLDER / WEIGHTS_FILE).stat().st_mtime_ns == before
    assert record == load_ranker(model / LEAN_FOLDER)[1]
    names = [one.name for one in (model / LEAN_FOLDER).iterdir()]
    assert sorted(names) == sorted([RECORD_FILE, WEIGHTS_FILE, STEP_FILE])


def test_its_labels_are_distilled_only_if_that_is_surely_better(model: Path) -> None:
    choice = load_ranker(model / LEAN_FOLDER)[1].choice
    if choice is not None:  # with users enough to choose by
        assert choice.networks.whole == "labels"
        assert set(choice.networks.tried) == {"labels", "distilled"}


def test_beside_another_model_it_is_refused(world: World, model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    weights = tmp_path / "model" / WEIGHTS_FILE
    changed = load_ranker(tmp_path / "model")
    next(changed[0].parameters()).data += 1
    save_ranker(tmp_path / "model", *changed)
    assert weights.exists()
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
def test_a_damaged_one_is_said_to_be(model: Path, tmp_path: Path, damage: object, said: str) -> None:
    shutil.copytree(model, tmp_path / "model")
    assert callable(damage)
    damage(tmp_path / "model" / LEAN_FOLDER)
    with pytest.raises(ModelFolderError, match=said):
        load_lean(tmp_path / "model")


def test_without_one_there_is_none(world: World, tmp_path: Path) -> None:
    assert load_lean(save(world, tmp_path / "model")) is None


def test_the_command_trains_it_and_the_next_training_of_the_model_removes_it(
    tiny_folder: Path, student: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "model"
    assert run("train", tiny_folder, student, out, "--epochs", "1", "--no-lora")[0] == 0
    code, said = run("lean", tiny_folder, student, out, "--epochs", "1")
    assert (code, "valid AUC" in said) == (0, True), said
    assert load_lean(out) is not None
    assert run("train", tiny_folder, student, out, "--epochs", "1", "--no-lora", "--seed", "1")[0] == 0
    assert load_lean(out) is None


def test_what_does_not_belong_together_is_refused(tiny_folder: Path, world: World, tmp_path: Path, run: Run) -> None:
    model = save(world, tmp_path / "model")
    code, said = run("lean", tiny_folder, model)
    assert (code, "was trained with a student, so give its folder before that of the model" in said) == (2, True), said
    assert run("lean", tiny_folder, tmp_path, model, tmp_path)[0] == 2
    code, said = run("lean", tiny_folder, tmp_path / "nothing")
    assert (code, "no trained model here" in said) == (2, True), said
