"""The encoder is proved by what the manifest says of it, and served in int8 only where vectors and scores stay."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from model_export.encoder_precision import compare, encode, refusal_of, settle_encoder
from msd.contract.bundle import ENCODER, ROWS, TOKENIZER
from msd.contract.encoder_record import EncoderFigures
from msd.contract.instructions import adds_int8_exactly, cpu_instructions
from msd.contract.row_file import RowFile
from msd.contract.rows import RowCodec
from msd.dataset.texts import student_texts
from tests.model_export.conftest import Exported

GOOD = EncoderFigures(texts=400, cosine_p1=0.999, greatest_difference=0.05, rows=900, pctr_shift=0.002)


def test_the_vectors_of_rows_are_what_the_bundle_s_own_encoder_makes_of_the_texts(exported: Exported) -> None:
    """Within one step of fp16, and what runs of other batches differ by, so that an ad may be encoded online today and
    have a row tomorrow. Near zero a step is smaller than that difference."""
    bundle = exported.bundle
    texts, _ = student_texts(exported.inputs.dataset)
    ids = list(texts)[:24]
    codec = RowCodec(bundle.schema, "item", bundle.bundle_id)
    rows = codec.unpack(RowFile(bundle.path(ROWS["item"]), codec, bundle.bundle_id).raw(ids))
    tokenizer = Tokenizer.from_file(str(bundle.path(TOKENIZER)))
    online = encode(bundle.path(ENCODER).read_bytes(), tokenizer, [texts[one] for one in ids]).astype(np.float16)
    stored = rows.records["semantic"]

    assert rows.found.all()
    step = np.spacing(np.maximum(np.abs(online), np.abs(stored))).astype(np.float64)
    assert (np.abs(online.astype(np.float64) - stored) <= step + 1e-5).all()


def test_the_manifest_has_texts_to_prove_the_encoder_by(exported: Exported) -> None:
    bundle = exported.bundle
    record = bundle.manifest.encoder
    assert record is not None
    assert (record.precision, record.figures, record.refused) == ("fp32", None, None)
    assert bundle.encoder_identity is not None
    tokenizer = Tokenizer.from_file(str(bundle.path(TOKENIZER)))
    found = encode(bundle.path(ENCODER).read_bytes(), tokenizer, [probe.text for probe in record.probes])
    np.testing.assert_allclose(found, [probe.vector for probe in record.probes], atol=record.tolerance / 10)


def test_a_bundle_without_an_encoder_says_nothing_of_one(plain: Exported) -> None:
    assert plain.bundle.manifest.encoder is None
    assert plain.bundle.encoder_identity is None


def test_int8_that_fails_the_gate_leaves_fp32_and_says_why(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_export.encoder_precision.COSINE_BOUND", 1.1)
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


def test_a_graph_compared_with_itself_is_the_same(exported: Exported) -> None:
    graph = exported.bundle.path(ENCODER).read_bytes()
    tokenizer = Tokenizer.from_file(str(exported.bundle.path(TOKENIZER)))
    figures = compare(graph, graph, tokenizer, {"a": "a tent", "b": "b"}, lambda vectors: np.array([0.1, 0.2]))
    assert figures.cosine_p1 == pytest.approx(1.0)
    assert (figures.greatest_difference, figures.pctr_shift, figures.texts, figures.rows) == (0.0, 0.0, 2, 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),
        ({"cosine_p1": 0.9}, "a cosine below 0.9000, 0.995 is due"),
        ({"pctr_shift": 0.02}, "moves by 0.0200 of itself, more than 0.005"),
        ({"rows": 0}, "no valid row's item has a text"),
    ],
)
def test_the_gate_looks_at_vectors_and_scores(change: dict[str, float], said: str | None) -> None:
    reason = refusal_of(GOOD.model_copy(update=change))
    assert reason is None if said is None else said in str(reason)
