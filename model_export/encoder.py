"""Export of the text encoder: the student with the ranker's adaptor, as encoder.onnx and tokenizer.json; and its record
in the manifest.

It maps a cold ad's text to its semantic vector. The graph is proved equal to torch on texts of several lengths.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from onnxruntime import InferenceSession
from tokenizers import Tokenizer
from torch import Tensor, nn

from model_export.errors import ExportError
from model_export.graph import to_onnx
from model_export.parity import spread
from model_export.run import open_session
from msd.contract.bundle import ENCODER, TOKENIZER
from msd.contract.encoder_record import EncoderRecord, Probe
from msd.contract.files import write_bytes_atomic, write_text_atomic
from msd.student.encoder import Student, pad, tokenise
from msd.student.record import Vectors

TOLERANCE = 1e-4
# Probes: one token, a few tokens, a sentence, and more than the student's maximum length.
_PROBES = (
    "",
    "Toy Story",
    "Running shoes for wet autumn trails, size 42, with a wide toe box.",
    "Ein Café in São Paulo, 東京 ☕",
    "A two-bedroom flat near the harbour, bright and quiet, with a view of the old lighthouse. " * 12,
)


class SemanticEncoder(nn.Module):
    """Student and adaptor: token IDs and mask, both [B, T] int64, to the ranker's item semantics [B, D]."""

    def __init__(self, student: Student, adaptor: nn.Module) -> None:
        super().__init__()
        self.student, self.adaptor = student, adaptor

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        semantic: Tensor = self.adaptor(self.student(input_ids, attention_mask))
        return semantic


def export_encoder(student: Student, adaptor: nn.Module, folder: Path) -> float:
    """Write encoder.onnx (any batch size and length) and tokenizer.json (truncates as the student does) to `folder`.

    Return the largest absolute difference between onnxruntime and torch over the probes, one by one and as one batch.
    Raises ExportError, and writes nothing, if it exceeds 1e-4.
    """
    model = SemanticEncoder(student, adaptor)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        graph = _graph(model, student)
        difference = _difference(model, student, graph)
    finally:
        for module, training in modes:
            module.training = training
    if not difference <= TOLERANCE:
        raise ExportError(
            f"{folder / ENCODER}: onnxruntime and torch differ by {difference:.2e}, more than {TOLERANCE:.0e}; "
            "not written"
        )
    write_bytes_atomic(folder / ENCODER, graph)
    write_text_atomic(folder / TOKENIZER, student.tokenizer.to_str(pretty=False))
    return difference


def _graph(model: nn.Module, student: Student) -> bytes:
    axes = {0: "batch", 1: "length"}
    return to_onnx(
        model,
        pad(tokenise(student.tokenizer, _PROBES[1:3])),
        ["input_ids", "attention_mask"],
        ["semantic"],
        {"input_ids": axes, "attention_mask": axes, "semantic": {0: "batch"}},
    )


def _difference(model: nn.Module, student: Student, graph: bytes) -> float:
    session, worst = open_session(graph), 0.0
    for texts in (_PROBES, *([probe] for probe in _PROBES)):
        ids, mask = pad(tokenise(student.tokenizer, texts))
        with torch.no_grad():
            expected = model(ids, mask).numpy()
        # Not max(): a NaN must count as a difference.
        worst = float(np.maximum(worst, np.abs(_run(session, ids, mask) - expected).max()))
    return worst


def _run(session: InferenceSession, ids: Tensor, mask: Tensor) -> Vectors:
    vectors: Vectors = session.run(["semantic"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
    return vectors


_PROBED_ITEMS = 4
# CPUs sum in different orders; the effect is below one step of fp16.
_TOLERANCE_ELSEWHERE = 1e-3


def encoder_record(folder: Path, texts: Sequence[str]) -> EncoderRecord:
    """Return the record of the encoder in `folder`, with probes among the items' `texts`."""
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    probes = [*_PROBES[1:], *(texts[place] for place in spread(np.arange(len(texts)), _PROBED_ITEMS))]
    vectors = encode((folder / ENCODER).read_bytes(), tokenizer, probes)
    return EncoderRecord(
        tolerance=_TOLERANCE_ELSEWHERE,
        probes=tuple(
            Probe(text=text, vector=tuple(map(float, row))) for text, row in zip(probes, vectors, strict=True)
        ),
    )


def encode(graph: bytes, tokenizer: Tokenizer, texts: Sequence[str]) -> Vectors:
    """Return the vectors [n, D] of n texts, run one by one on one thread."""
    session = open_session(graph)
    return np.concatenate([_run(session, *pad([row])) for row in tokenise(tokenizer, texts)])
