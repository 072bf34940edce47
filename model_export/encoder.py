"""Export of the text encoder: the student with the ranker's adaptor, as encoder.onnx and tokenizer.json; its precision,
and its record in the manifest.

It maps a cold ad's text to its semantic vector. The graph is proved equal to torch on texts of several lengths. A
precision is judged by vectors and by their effect on cold ads' scores, which the caller computes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from model_export.errors import ExportError
from model_export.graph import open_session, to_onnx
from model_export.precision.choice import RequestedPrecision
from model_export.precision.int8 import quantise
from msd.contract.assemble import Tensors
from msd.contract.encoder_record import EncoderFigures, EncoderPrecision, EncoderRecord, Probe
from msd.contract.files import write_bytes_atomic, write_text_atomic
from msd.contract.instructions import adds_int8_exactly, cpu_instructions
from msd.student.encoder import Student, pad, tokenise
from msd.student.record import Vectors

ENCODER_FILE, TOKENIZER_FILE = "encoder.onnx", "tokenizer.json"
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
    """Student and adaptor: token IDs and mask, both [B, T] int64, to the ranker's item semantics [B, 64]."""

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
            f"{folder / ENCODER_FILE}: onnxruntime and torch differ by {difference:.2e}, more than {TOLERANCE:.0e}; "
            "not written"
        )
    write_bytes_atomic(folder / ENCODER_FILE, graph)
    write_text_atomic(folder / TOKENIZER_FILE, student.tokenizer.to_str(pretty=False))
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
    session = open_session(graph)
    together: Sequence[Sequence[str]] = (_PROBES, *([probe] for probe in _PROBES))
    worst = 0.0
    for texts in together:
        ids, mask = pad(tokenise(student.tokenizer, texts))
        with torch.no_grad():
            expected = model(ids, mask).numpy()
        (found,) = session.run(["semantic"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        # Not max(): a NaN must count as a difference.
        worst = float(np.maximum(worst, np.abs(found - expected).max()))
    return worst


Scores = NDArray[np.float64]
ScoresOf = Callable[[Mapping[str, NDArray[np.float16]]], Scores]
"""pCTR [n] of valid rows whose items are scored as cold ads with these vectors, given by item ID."""

COSINE_BOUND = 0.995
# As for the ranker's precisions (`precision.gate`): bids are multiplied by pCTR.
SHIFT_BOUND = 0.005
_SCALES_OF, _JUDGED = 200, 400
_PROBED_ITEMS = 4
# CPUs sum in different orders. In fp32 the effect is below one step of fp16; in int8 it moves some activations a step.
_TOLERANCES: Mapping[EncoderPrecision, float] = {"fp32": 1e-3, "int8": 5e-2}


def settle_encoder(
    folder: Path, asked: RequestedPrecision, texts: Mapping[str, str], scores: ScoresOf
) -> EncoderRecord:
    """Replace encoder.onnx in `folder` by an int8 one if `asked` is int8 or auto and it passes the gate.

    `texts`: the items', by ID. Failing the gate raises nothing: the record says why fp32 stays.
    """
    graph, tokenizer = (folder / ENCODER_FILE).read_bytes(), Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    figures = refused = None
    precision: EncoderPrecision = "fp32"
    if asked in ("int8", "auto"):
        try:
            lower = _in_int8(graph, tokenizer, list(texts.values()))
        except ExportError as error:
            refused = str(error)
        else:
            figures = compare(graph, lower, tokenizer, texts, scores)
            refused = refusal_of(figures)
            if refused is None:
                precision, graph = "int8", lower
                write_bytes_atomic(folder / ENCODER_FILE, lower)
    probes = [*_PROBES[1:], *_some(list(texts.values()), _PROBED_ITEMS)]
    vectors = encode(graph, tokenizer, probes)
    return EncoderRecord(
        precision=precision,
        tolerance=_TOLERANCES[precision],
        probes=tuple(
            Probe(text=text, vector=tuple(map(float, row))) for text, row in zip(probes, vectors, strict=True)
        ),
        figures=figures,
        refused=refused,
    )


def compare(
    plain: bytes, lower: bytes, tokenizer: Tokenizer, texts: Mapping[str, str], scores: ScoresOf
) -> EncoderFigures:
    """Compare both graphs' vectors of up to 400 texts, and the resulting scores."""
    ids = _some(list(texts), _JUDGED)
    before, after = (encode(graph, tokenizer, [texts[id_] for id_ in ids]) for graph in (plain, lower))
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    cosines = (before * after).sum(1) / np.maximum(lengths, 1e-12)
    due, found = (scores(dict(zip(ids, rows.astype(np.float16), strict=True))) for rows in (before, after))
    return EncoderFigures(
        texts=len(ids),
        cosine_p1=float(np.percentile(cosines, 1)),
        greatest_difference=float(np.abs(before - after).max()),
        rows=len(due),
        pctr_shift=float(np.abs(found - due).mean() / due.mean()) if len(due) else 0.0,
    )


def refusal_of(figures: EncoderFigures) -> str | None:
    """Return why these figures fail; None if they pass."""
    failed = []
    # Not `<`: NaN must not pass.
    if not figures.cosine_p1 >= COSINE_BOUND:
        failed.append(f"one vector in a hundred has a cosine below {figures.cosine_p1:.4f}, {COSINE_BOUND} is due")
    if not figures.rows:
        failed.append("no valid row's item has a text to judge scores by")
    if not figures.pctr_shift <= SHIFT_BOUND:
        failed.append(f"pCTR of cold ads moves by {figures.pctr_shift:.4f} of itself, more than {SHIFT_BOUND}")
    return "; ".join(failed) or None


def encode(graph: bytes, tokenizer: Tokenizer, texts: Sequence[str]) -> Vectors:
    """Return the vectors [n, D] of n texts, run one by one on one thread."""
    session = open_session(graph)
    return np.concatenate([session.run(["semantic"], tensors)[0] for tensors in _tensors(tokenizer, texts)])


def _in_int8(graph: bytes, tokenizer: Tokenizer, texts: Sequence[str]) -> bytes:
    if not adds_int8_exactly(instructions := cpu_instructions()):
        raise ExportError(f"int8: this CPU ({' '.join(instructions)}) has no VNNI, without which sums are cut")
    if not texts:
        raise ExportError("int8: no item has a text to take scales from")
    return quantise(graph, _tensors(tokenizer, _some(texts, _SCALES_OF)))


def _tensors(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[Tensors]:
    for row in tokenise(tokenizer, texts):
        ids, mask = pad([row])
        yield {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}


def _some(values: Sequence[str], limit: int) -> list[str]:
    """Return up to `limit` of the values, evenly spread."""
    places = np.linspace(0, len(values) - 1, min(limit, len(values))).astype(np.int64)
    return [values[place] for place in places.tolist()]
