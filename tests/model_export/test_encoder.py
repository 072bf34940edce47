"""The exported encoder gives torch's vectors without torch, and is served in int8 only if vectors and scores stay."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from model_export.encoder import ENCODER_FILE, TOKENIZER_FILE, encode, export_encoder, refusal_of, settle_encoder
from model_export.errors import ExportError
from msd.contract.bundle import ENCODER, ROWS, TOKENIZER
from msd.contract.encoder_record import EncoderFigures
from msd.contract.instructions import adds_int8_exactly, cpu_instructions
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


def test_encoder_equals_torch(written: tuple[Path, float], student: Student, adaptor: nn.Module) -> None:
    folder, difference = written
    with torch.no_grad():
        expected = adaptor.eval()(torch.from_numpy(encode_texts(student, TEXTS))).numpy()
    found = _run(folder, TEXTS)
    assert found.shape == (len(TEXTS), 64)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert 0 <= difference < 1e-5


def test_encoder_has_named_inputs_and_free_axes_and_truncates(written: tuple[Path, float]) -> None:
    session = onnxruntime.InferenceSession(written[0] / ENCODER_FILE, providers=["CPUExecutionProvider"])
    inputs = {entry.name: (entry.type, entry.shape) for entry in session.get_inputs()}
    assert inputs == {name: ("tensor(int64)", ["batch", "length"]) for name in ("input_ids", "attention_mask")}
    (output,) = session.get_outputs()
    assert (output.name, output.type, output.shape[0], output.shape[-1]) == ("semantic", "tensor(float)", "batch", 64)
    assert len(Tokenizer.from_file(str(written[0] / TOKENIZER_FILE)).encode("word " * 500).ids) == 64


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


GOOD = EncoderFigures(texts=400, cosine_p1=0.999, greatest_difference=0.05, rows=900, pctr_shift=0.002)


def test_encoder_makes_vectors_of_rows(exported: Exported) -> None:
    """Within one step of fp16, and what runs of other batches differ by, so that an ad may be encoded online today and
    have a row tomorrow. Near zero a step is smaller than that difference."""
    bundle = exported.bundle
    texts, _ = student_texts(exported.inputs.dataset)
    ids = list(texts)[:24]
    codec = RowCodec(bundle.schema, "item", bundle.bundle_id)
    rows = codec.unpack(RowFile(bundle.path(ROWS["item"]), codec, bundle.bundle_id).raw(ids))
    tokenizer = Tokenizer.from_file(str(bundle.path(TOKENIZER)))
    online = encode(bundle.path(ENCODER).read_bytes(), tokenizer, [texts[id_] for id_ in ids]).astype(np.float16)
    stored = rows.records["semantic"]

    assert rows.found.all()
    step = np.spacing(np.maximum(np.abs(online), np.abs(stored))).astype(np.float64)
    assert (np.abs(online.astype(np.float64) - stored) <= step + 1e-5).all()


def test_manifest_has_probes(exported: Exported, plain: Exported) -> None:
    assert plain.bundle.manifest.encoder is None
    assert plain.bundle.encoder_identity is None
    bundle = exported.bundle
    record = bundle.manifest.encoder
    assert record is not None
    assert (record.precision, record.figures, record.refused) == ("fp32", None, None)
    assert bundle.encoder_identity is not None
    tokenizer = Tokenizer.from_file(str(bundle.path(TOKENIZER)))
    found = encode(bundle.path(ENCODER).read_bytes(), tokenizer, [probe.text for probe in record.probes])
    np.testing.assert_allclose(found, [probe.vector for probe in record.probes], atol=record.tolerance / 10)


def test_refused_int8_encoder_leaves_fp32(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_export.encoder.COSINE_BOUND", 1.1)
    before = exported.bundle.path(ENCODER).read_bytes()
    for name in (ENCODER, TOKENIZER):
        (tmp_path / name).write_bytes(exported.bundle.path(name).read_bytes())
    texts = dict(list(student_texts(exported.inputs.dataset)[0].items())[:6])
    record = settle_encoder(tmp_path, "auto", texts, lambda vectors: np.full(len(vectors), 0.1))
    assert record.precision == "fp32"
    assert record.refused is not None
    assert (tmp_path / ENCODER).read_bytes() == before
    if not adds_int8_exactly(cpu_instructions()):
        assert record.refused.startswith("int8: this CPU")
        return
    assert record.refused.startswith("one vector in a hundred has a cosine below")
    without = settle_encoder(tmp_path, "int8", {}, lambda vectors: np.zeros(0))
    assert without.refused == "int8: no item has a text to take scales from"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"cosine_p1": 0.9}, "a cosine below 0.9000, 0.995 is due"),
        ({"pctr_shift": 0.02}, "moves by 0.0200 of itself, more than 0.005"),
        ({"rows": 0}, "no valid row's item has a text"),
    ],
)
def test_gate_judges_vectors_and_scores(change: dict[str, float], message: str | None) -> None:
    reason = refusal_of(GOOD.model_copy(update=change))
    assert reason is None if message is None else message in str(reason)
