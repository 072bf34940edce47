"""The exported encoder gives torch's vectors without torch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from model_export.encoder import encode, export_encoder
from model_export.errors import ExportError
from msd.contract.bundle import ENCODER, ROWS, TOKENIZER
from msd.contract.row_file import RowFile
from msd.contract.rows import RowCodec
from msd.dataset.texts import student_texts
from msd.student.encoder import Student, encode_texts, new_student
from msd.student.record import VECTOR_DIM, Vectors
from tests.model_export.conftest import Exported

TEXTS = ("Toy Story (1995). Genres: Animation.", "x", "GoldenEye, a spy film. " * 60, "", "Ωmega ☕ — “quotes”")


@pytest.fixture(scope="module")
def adaptor() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.LayerNorm(VECTOR_DIM), nn.Linear(VECTOR_DIM, 64), nn.Dropout(0.5))


@pytest.fixture(scope="module")
def student() -> Student:
    return new_student(max_tokens=64)


@pytest.fixture(scope="module")
def written(student: Student, adaptor: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    folder = tmp_path_factory.mktemp("encoder")
    return folder, export_encoder(student, adaptor, folder)


def _run(folder: Path, texts: Sequence[str]) -> Vectors:
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch(list(texts))
    session = onnxruntime.InferenceSession(folder / ENCODER, providers=["CPUExecutionProvider"])
    feed = {
        "input_ids": np.asarray([encoding.ids for encoding in encodings], np.int64),
        "attention_mask": np.asarray([encoding.attention_mask for encoding in encodings], np.int64),
    }
    (semantic,) = session.run(["semantic"], feed)
    vectors: Vectors = semantic
    return vectors


def test_encoder_equals_torch(written: tuple[Path, float], student: Student, adaptor: nn.Module) -> None:
    folder, difference = written
    with torch.no_grad():
        expected = adaptor.eval()(torch.from_numpy(encode_texts(student, TEXTS))).numpy()
    found = _run(folder, TEXTS)
    assert found.shape == (len(TEXTS), 64)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert 0 <= difference < 1e-5


def test_encoder_has_named_inputs_and_free_axes_and_truncates(written: tuple[Path, float]) -> None:
    session = onnxruntime.InferenceSession(written[0] / ENCODER, providers=["CPUExecutionProvider"])
    inputs = {entry.name: (entry.type, entry.shape) for entry in session.get_inputs()}
    assert inputs == {name: ("tensor(int64)", ["batch", "length"]) for name in ("input_ids", "attention_mask")}
    (output,) = session.get_outputs()
    assert (output.name, output.type, output.shape[0], output.shape[-1]) == ("semantic", "tensor(float)", "batch", 64)
    assert len(Tokenizer.from_file(str(written[0] / TOKENIZER)).encode("word " * 500).ids) == 64


class _Wavering(nn.Module):
    """An adaptor that tracing freezes: the graph keeps what its first call added."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, vectors: Tensor) -> Tensor:
        self.calls += 1
        return vectors[:, :64] + self.calls


def test_differing_encoder_is_not_written(student: Student, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"differ by .*e\+00, more than 1e-04"):
        export_encoder(student, _Wavering(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_encoder_makes_vectors_of_rows(exported: Exported) -> None:
    """Within one step of fp16, and what runs of other batches differ by, so that an ad may be encoded online today and
    have a row tomorrow. Near zero a step is smaller than that difference. A row has the teacher's words where the
    encoder has the student's guess, so that only the block of the text's meaning is compared."""
    bundle = exported.bundle
    texts, _ = student_texts(exported.inputs.dataset)
    ids = list(texts)[:24]
    codec = RowCodec(bundle.schema, "item", bundle.bundle_id)
    rows = codec.unpack(RowFile(bundle.path(ROWS["item"]), codec, bundle.bundle_id).raw(ids))
    tokenizer = Tokenizer.from_file(str(bundle.path(TOKENIZER)))
    online = encode(bundle.path(ENCODER).read_bytes(), tokenizer, [texts[id_] for id_ in ids]).astype(np.float16)
    meaning = slice(bundle.schema.semantic_width("item") // 2)
    online, stored = online[:, meaning], rows.records["semantic"][:, meaning]

    assert rows.found.all()
    step = np.spacing(np.maximum(np.abs(online), np.abs(stored))).astype(np.float64)
    assert (np.abs(online.astype(np.float64) - stored) <= step + 1e-5).all()


def test_manifest_has_probes(exported: Exported, plain: Exported) -> None:
    assert plain.bundle.manifest.encoder is None
    assert plain.bundle.encoder_identity is None
    bundle = exported.bundle
    record = bundle.manifest.encoder
    assert record is not None
    assert record.precision == "fp32"
    assert bundle.encoder_identity is not None
    tokenizer = Tokenizer.from_file(str(bundle.path(TOKENIZER)))
    found = encode(bundle.path(ENCODER).read_bytes(), tokenizer, [probe.text for probe in record.probes])
    np.testing.assert_allclose(found, [probe.vector for probe in record.probes], atol=record.tolerance / 10)
