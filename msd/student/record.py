"""The record of a student's folder: files, dimensions, fingerprint. Needs no torch."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator

from msd.contract.errors import MsdError
from msd.step import read_record

FORMAT = 3
MEANING_DIM = 384
WORDS_DIM = 128
VECTOR_DIM = MEANING_DIM + WORDS_DIM
# Place of each block's numbers in a vector; each is of unit length, or zero.
HEADS = {"meaning": slice(0, MEANING_DIM), "words": slice(MEANING_DIM, VECTOR_DIM)}
WEIGHTS_FILE, TOKENIZER_FILE, RECORD_FILE = "student.safetensors", "tokenizer.json", "student.json"
STUDENT_FOLDER = "student"
"""Of a model's folder: the student that was trained with it, which later commands take for the distilled one."""

Vectors = npt.NDArray[np.float32]


class StudentError(MsdError):
    """A student, its folder or its vectors are missing, damaged, or of another version."""


class BertConfig(BaseModel):
    """Part of a checkpoint's config.json that defines the encoder; the defaults are those of all-MiniLM-L6-v2.

    Sizes are bounded, because weights of these sizes are made before a file of weights is read.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    vocab_size: Annotated[int, Field(ge=1, le=300_000)] = 30_522
    hidden_size: Annotated[int, Field(ge=1, le=1_024)] = 384
    num_hidden_layers: Annotated[int, Field(ge=0, le=24)] = 6
    num_attention_heads: Annotated[int, Field(ge=1, le=64)] = 12
    intermediate_size: Annotated[int, Field(ge=1, le=4_096)] = 1_536
    max_position_embeddings: Annotated[int, Field(ge=1, le=8_192)] = 512
    type_vocab_size: Annotated[int, Field(ge=1, le=16)] = 2
    layer_norm_eps: PositiveFloat = 1e-12
    initializer_range: PositiveFloat = 0.02
    hidden_act: Literal["gelu"] = "gelu"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} does not divide hidden_size={self.hidden_size}"
            )
        return self


class StudentRecord(BaseModel):
    """`student.json`: what is needed to rebuild the student, and how near held-out texts come to their words.

    `fingerprint` identifies weights, tokenizer and truncation together; vectors carry it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[3] = 3
    start: str
    max_tokens: int = Field(128, ge=2, le=512)
    bert: BertConfig
    fingerprint: str = ""
    metrics: dict[str, Any] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.bert.hidden_size != MEANING_DIM:
            raise ValueError(f"bert.hidden_size should be {MEANING_DIM}")
        if self.max_tokens > (most := self.bert.max_position_embeddings):
            raise ValueError(f"max_tokens={self.max_tokens} is more than bert.max_position_embeddings={most}")
        return self


def load_record(folder: Path) -> StudentRecord:
    """Read `student.json` alone. Raises StudentError if it is missing, malformed or of another format."""
    absent = f"{RECORD_FILE}: no such file; a student's folder is what `msd distill` writes"
    return read_record(folder / RECORD_FILE, StudentRecord, absent, "distil again", StudentError)
