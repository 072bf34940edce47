"""The exported encoder runs without torch and gives torch's vectors, for any number and length of texts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from model_export.encoder import ENCODER_FILE, TOKENIZER_FILE, export_encoder
from model_export.errors import ExportError
from msd.student.encoder import Student, encode_texts, new_student, pad
from msd.student.record import VECTOR_DIM, Vectors

TEXTS = ("Toy Story (1995). Genres: Animation.", "x", "GoldenEye, a spy film. " * 60, "", "Ωmega ☕ — “quotes”")


@pytest.fixture(scope="module")
def adaptor() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.LayerNorm(VECTOR_DIM), nn.Linear(VECTOR_DIM, 64), nn.Dropout(0.5))


@pytest.fixture(scope="module")
def student() -> Student:
    return new_student(max_tokens=64)


@pytest.fixture(scope="module")
def exported(student: Student, adaptor: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    folder = tmp_path_factory.mktemp("encoder")
    return folder, export_encoder(student, adaptor, folder)


def _run(folder: Path, texts: Sequence[str]) -> Vectors:
    """As a service does it: tokenizers and onnxruntime alone."""
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch(list(texts))
    session = onnxruntime.InferenceSession(folder / ENCODER_FILE, providers=["CPUExecutionProvider"])
    feed = {
        "input_ids": np.asarray([encoding.ids for encoding in encodings], np.int64),
        "attention_mask": np.asarray([encoding.attention_mask for encoding in encodings], np.int64),
    }
    (semantic,) = session.run(["semantic"], feed)
    vectors: Vectors = semantic
    return vectors


def test_the_graph_equals_torch_on_texts_that_it_was_not_checked_on(
    exported: tuple[Path, float], student: Student, adaptor: nn.Module
) -> None:
    folder, difference = exported
    with torch.no_grad():
        expected = adaptor.eval()(torch.from_numpy(encode_texts(student, TEXTS))).numpy()
    found = _run(folder, TEXTS)
    assert found.shape == (len(TEXTS), 64)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert 0 <= difference < 1e-5


def test_a_text_has_the_same_semantics_alone_and_in_a_batch(exported: tuple[Path, float]) -> None:
    together = _run(exported[0], TEXTS)
    for text, vector in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(_run(exported[0], [text])[0], vector, atol=1e-5)


def test_inputs_and_output_have_their_names_types_and_free_axes(exported: tuple[Path, float]) -> None:
    session = onnxruntime.InferenceSession(exported[0] / ENCODER_FILE, providers=["CPUExecutionProvider"])
    inputs = {entry.name: (entry.type, entry.shape) for entry in session.get_inputs()}
    assert inputs == {name: ("tensor(int64)", ["batch", "length"]) for name in ("input_ids", "attention_mask")}
    (output,) = session.get_outputs()
    assert (output.name, output.type, output.shape[0], output.shape[-1]) == ("semantic", "tensor(float)", "batch", 64)


def test_the_tokenizer_file_truncates_like_the_student(exported: tuple[Path, float]) -> None:
    tokenizer = Tokenizer.from_file(str(exported[0] / TOKENIZER_FILE))
    assert len(tokenizer.encode("word " * 500).ids) == 64


def test_training_mode_is_left_as_it_was(student: Student, tmp_path: Path) -> None:
    adaptor = nn.Sequential(nn.Linear(VECTOR_DIM, 64), nn.Dropout(0.5)).train()
    export_encoder(student, adaptor, tmp_path)
    assert adaptor.training
    assert adaptor[1].training
    assert not student.training


class _Wavering(nn.Module):
    """An adaptor that tracing freezes: the graph keeps what its first call added."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, vectors: Tensor) -> Tensor:
        self.calls += 1
        return vectors[:, :64] + self.calls


def test_a_graph_that_differs_from_torch_is_not_written(student: Student, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"differ by .*e\+00, more than 1e-04"):
        export_encoder(student, _Wavering(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_padding_is_masked(student: Student) -> None:
    ids, mask = pad([np.asarray([101, 2345, 102], np.int64), np.asarray([101, *range(2000, 2030), 102], np.int64)])
    garbage = torch.where(mask == 0, torch.tensor(7777), ids)
    with torch.no_grad():
        assert torch.equal(student(ids, mask), student(garbage, mask))
