"""The encoder makes the vectors of the export, proves that it does, and says what is wrong where it cannot."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from msd.contract.bundle import ENCODER, RANKER, TOKENIZER, Bundle, bundle_id_of, file_entries, open_bundle
from msd.contract.errors import BundleError
from service.cold.text_encoder import TextEncoder
from tests.bundles.encoder_graph import POISON, build_encoder, encode_alone
from tests.bundles.factory import build_bundle, example_schema, reseal
from tests.bundles.ranker_graph import Recipe

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=90)


@pytest.fixture(scope="module")
def encoder(cold_bundle: Bundle) -> TextEncoder:
    return TextEncoder(cold_bundle)


@given(texts=st.lists(TEXTS, min_size=1, max_size=6))
def test_together_or_alone_within_a_step_of_fp16(texts: list[str], encoder: TextEncoder, cold_bundle: Bundle) -> None:
    graph, tokenizer = (cold_bundle.path(name) for name in (ENCODER, TOKENIZER))
    texts = [text for text in texts if b"\xa0" not in text.encode()] or ["a tent"]
    found = encoder.encode(encoder.tokenise(texts))
    for text, vector in zip(texts, found, strict=True):
        due = encode_alone(graph.read_bytes(), Tokenizer.from_file(str(tokenizer)), text).astype(np.float16)
        assert (np.abs(vector - due) <= np.spacing(np.maximum(np.abs(vector), np.abs(due)))).all()


def test_non_finite_vector_is_an_error(encoder: TextEncoder) -> None:
    with pytest.raises(BundleError, match="gives numbers that are not finite"):
        encoder.encode(encoder.tokenise(["a tent", POISON]))


def _write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def _another_truncation(folder: Path) -> None:
    document = json.loads((folder / TOKENIZER).read_text())
    document["truncation"]["max_length"] = 8
    (folder / TOKENIZER).write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_write(ENCODER, build_encoder(7, 0)), r"gives vectors \(7,\), the schema takes 8 numbers"),
        (_write(ENCODER, build_encoder(8, 1)), "a vector differs by .* from what the manifest expects"),
        (_another_truncation, "a vector differs by .* from what the manifest expects"),
        (lambda folder: (folder / ENCODER).write_bytes((folder / RANKER).read_bytes()), "not a text encoder: it needs"),
        (_write(ENCODER, b"no graph at all"), "encoder.onnx: "),
        (_write(TOKENIZER, b'{"version": "1.0", "model": 3}'), "tokenizer.json: not a tokenizer"),
        (lambda folder: reseal(folder, encoder=None), "has no encoder listed in its manifest; export it again"),
    ],
)
def test_encoder_that_is_not_what_it_should_be_is_refused(
    spoil: Callable[[Path], object], reason: str, tmp_path: Path
) -> None:
    """Though all hashes fit: it was made wrong, not damaged."""
    folder = build_bundle(tmp_path / "bundle", Recipe(encoder=True)).folder
    spoil(folder)
    entries = file_entries(folder)
    weights = {name: entries[name].sha256 for name in (RANKER, ENCODER)}
    reseal(folder, bundle_id=bundle_id_of(example_schema(), weights))
    with pytest.raises(BundleError, match=reason):
        TextEncoder(open_bundle(folder))
