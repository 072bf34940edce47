"""The paper's network is exported and served with the student that was trained with it."""

import ssl
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer

from model_export.export import TOLERANCE, export_bundle
from model_export.inputs import own_recipe
from msd.contract.bundle import ENCODER, TOKENIZER, Bundle, open_bundle
from msd.dataset.load import load_dataset
from msd.ranker.features import build_features
from msd.ranker.model import RankerConfig
from msd.ranker.schema_fit import fit_schema
from msd.student.encoder import encode_texts, load_student
from msd.student.record import STUDENT_FOLDER
from msd.student.vectors import load_vectors
from msd.training.end_to_end import StudentTexts
from msd.training.folder import NetworkInputs, TrainedNetwork, train_network
from operations.replay.recorded import replay
from operations.service_client import ServiceClient
from tests.model_export.conftest import Run, quiet
from tests.ranker.made import SHORT
from tests.service.live import live_service

PAPER = RankerConfig(network="paper", hidden=(32, 16), embedding=8, layers=1)


@pytest.fixture(scope="module")
def model(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainedNetwork]:
    folder, dataset, vectors = tmp_path_factory.mktemp("paper"), load_dataset(run.dataset), load_vectors(run.student)
    features = build_features(dataset, fit_schema(dataset), vectors)
    inputs = NetworkInputs(dataset.fingerprint, vectors.student, features, StudentTexts.of(run.student, dataset))
    return folder, train_network(folder, "run", inputs, PAPER, SHORT, quiet)


@pytest.fixture(scope="module")
def made(run: Run, model: tuple[Path, TrainedNetwork], tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    folder = tmp_path_factory.mktemp("paper_bundle")
    inputs = own_recipe(run.dataset, run.knowledge, model[0] / STUDENT_FOLDER, model[0], None)
    assert export_bundle(inputs, folder / "bundle", folder / "replay.jsonl", 40, quiet)
    return open_bundle(folder / "bundle"), folder / "replay.jsonl"


def test_service_scores_as_torch_does(made: tuple[Bundle, Path], tmp_path: Path) -> None:
    bundle, recorded = made
    assert bundle.manifest.provenance["parity"]["max_abs_diff"] <= TOLERANCE
    with live_service(bundle.folder, tmp_path) as service:
        found = replay(recorded, [ServiceClient(service.url, None, ssl.create_default_context())], quiet)
    assert found.requests == 40
    assert found.max_abs_diff <= 1e-5


def test_new_ads_are_encoded_by_the_tuned_student(
    made: tuple[Bundle, Path], run: Run, model: tuple[Path, TrainedNetwork]
) -> None:
    texts, bundle = ["Guitar quest. About music.", "x"], made[0]
    tokenizer = Tokenizer.from_file(str(bundle.path(TOKENIZER)))
    tokenizer.enable_padding()
    tokens = tokenizer.encode_batch(texts)
    feed = {
        "input_ids": np.asarray([one.ids for one in tokens], np.int64),
        "attention_mask": np.asarray([one.attention_mask for one in tokens], np.int64),
    }
    session = onnxruntime.InferenceSession(bundle.path(ENCODER), providers=["CPUExecutionProvider"])
    (found,) = session.run(["semantic"], feed)
    adaptor = model[1].model.adaptors["item"]
    with torch.no_grad():
        tuned, before = (
            adaptor(torch.from_numpy(encode_texts(load_student(folder), texts))).numpy()
            for folder in (model[0] / STUDENT_FOLDER, run.student)
        )
    np.testing.assert_allclose(found, tuned, atol=1e-4)
    assert not np.allclose(before, tuned, atol=1e-3)
