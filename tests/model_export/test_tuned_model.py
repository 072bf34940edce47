"""A tuned model is exported with its own student: its encoder in the bundle makes what its rows hold."""

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer

from model_export.export import export_bundle
from model_export.inputs import ExportInputs, load_inputs
from msd.contract.bundle import ENCODER, TOKENIZER, open_bundle
from msd.dataset.load import load_dataset
from msd.dataset.texts import student_texts
from msd.student.record import StudentError
from msd.training.folder import STUDENT_FOLDER, TuningRecord, load_ranker, save_ranker
from tests.model_export.conftest import Run, quiet
from tests.ranker.tuned import write_small_student


@pytest.fixture(scope="module")
def tuned(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with semantics, as if tuning had made another student of the one it was trained with."""
    out = tmp_path_factory.mktemp("tuned") / "model"
    shutil.copytree(run.semantic, out)
    own = write_small_student(out / STUDENT_FOLDER, load_dataset(run.dataset), seed=1)
    model, record = load_ranker(out)
    tuning = TuningRecord(
        student=own.student, valid_auc_before=0.6, valid_auc=0.7, epoch=1, curve=(), config={"rank": 8}, seconds=1.0
    )
    save_ranker(out, model, record.model_copy(update={"tuning": tuning}))
    return out


@pytest.fixture(scope="module")
def inputs(run: Run, tuned: Path) -> ExportInputs:
    return load_inputs(run.dataset, run.knowledge, run.student, tuned, None)


def test_tuned_model_has_own_student(run: Run, inputs: ExportInputs) -> None:
    given = load_inputs(run.dataset, run.knowledge, run.student, run.semantic, None)
    assert inputs.student
    assert given.student
    assert inputs.record.own_student == inputs.vectors.student == inputs.student.record.fingerprint
    assert given.vectors.student == given.student.record.fingerprint == inputs.record.student
    assert inputs.vectors.student != given.vectors.student
    assert inputs.fingerprint != given.fingerprint


def test_encoder_of_tuned_model_makes_its_rows(inputs: ExportInputs, tmp_path: Path) -> None:
    assert export_bundle(inputs.recipe(), tmp_path / "bundle", None, 20, quiet)
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.manifest.provenance["student"] == inputs.record.own_student
    tokenizer = Tokenizer.from_file(str(bundle.path(TOKENIZER)))
    tokenizer.enable_padding()
    texts = student_texts(inputs.dataset)[0]
    encodings = tokenizer.encode_batch([texts[one] for one in inputs.vectors.items.ids])
    session = onnxruntime.InferenceSession(bundle.path(ENCODER), providers=["CPUExecutionProvider"])
    feed = {
        "input_ids": np.asarray([encoding.ids for encoding in encodings], np.int64),
        "attention_mask": np.asarray([encoding.attention_mask for encoding in encodings], np.int64),
    }
    (online,) = session.run(["semantic"], feed)
    with torch.no_grad():
        cached = inputs.trained.adaptors["item"](torch.from_numpy(inputs.vectors.items.vectors)).numpy()
    np.testing.assert_allclose(online, cached, atol=1e-4)


def test_rejects_tuned_model_without_student(run: Run, tuned: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tuned, model, ignore=shutil.ignore_patterns(STUDENT_FOLDER))
    with pytest.raises(StudentError, match=r"student\.json: no such file"):
        load_inputs(run.dataset, run.knowledge, run.student, model, None)
