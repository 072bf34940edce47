"""A teacher's words as numbers: their coordinates in a bag of words, and the block that an item's row has of these.

Sums of doubles in an order that depends on the text alone, so that the export and a service make the same bits. The
terms of a text are those of scikit-learn's TfidfVectorizer (1 and 2 words, without stop words).
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from msd.contract.errors import ContractError, first_fault

Vectors = NDArray[np.float32]
_WORD = re.compile(r"\b\w\w+\b")
# Of torch's LayerNorm.
_EPSILON = 1e-5
_TOGETHER = 1_024


class WordsError(ContractError):
    """A file of words is damaged."""


class _Header(BaseModel):
    """The first line of a file. What follows are idf [V] and directions [V, W], then weight [B, W] and bias [B]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    student: str
    stop_words: tuple[str, ...]
    terms: tuple[str, ...]
    width: Annotated[int, Field(ge=1, le=4_096)]
    block: Annotated[int, Field(ge=0, le=4_096)]


@dataclass(frozen=True)
class BagOfWords:
    """Directions [V, W] in which texts differ, of V terms with weights `idf` [V]; and the linear map to an item's
    block, `weight` [B, W] and `bias` [B], of no numbers where there is no ranker yet.

    `student`: fingerprint of the student that was taught these directions.
    """

    terms: tuple[str, ...]
    stop_words: frozenset[str]
    idf: NDArray[np.float64]
    directions: Vectors
    weight: Vectors
    bias: Vectors
    student: str = ""

    @cached_property
    def _places(self) -> dict[str, int]:
        return {term: place for place, term in enumerate(self.terms)}

    def terms_of(self, text: str) -> list[str]:
        """Return the words of a text, and its pairs of words, without stop words."""
        words = [word for word in _WORD.findall(text.lower()) if word not in self.stop_words]
        return words + [f"{first} {second}" for first, second in zip(words, words[1:], strict=False)]

    def coordinates(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors [n, W] of n texts; zeros for a text without any known term."""
        found = np.zeros((len(texts), self.directions.shape[1]), np.float32)
        for row, text in enumerate(texts):
            counts = Counter(self._places[term] for term in self.terms_of(text) if term in self._places)
            if not counts:
                continue
            places = sorted(counts)
            weights = (1.0 + np.log([counts[place] for place in places])) * self.idf[places]
            weights /= np.sqrt((weights * weights).sum())
            # Added row after row: a product of matrices has no fixed order.
            total = (self.directions[places].astype(np.float64) * weights[:, None]).sum(axis=0)
            length = np.sqrt((total * total).sum())
            if length > 1e-6:
                found[row] = total / length
        return found

    def block(self, coordinates: Vectors) -> Vectors:
        """Return the words block [n, B] of items with these coordinates [n, W]: the adaptor's linear map, and its
        normalisation."""
        blocks = np.empty((len(coordinates), len(self.bias)), np.float32)
        weight = self.weight.astype(np.float64).T[:, None, :]
        for start in range(0, len(coordinates), _TOGETHER):
            some = coordinates[start : start + _TOGETHER].astype(np.float64)
            mapped = (some.T[:, :, None] * weight).sum(axis=0) + self.bias
            centred = (mapped - (mapped.T.sum(axis=0) / mapped.shape[1])[:, None]).T
            scale = np.sqrt((centred * centred).sum(axis=0) / len(centred) + _EPSILON)
            blocks[start : start + _TOGETHER] = (centred / scale).T
        return blocks

    def pack(self) -> bytes:
        header = _Header(
            student=self.student,
            stop_words=tuple(sorted(self.stop_words)),
            terms=self.terms,
            width=self.directions.shape[1],
            block=len(self.bias),
        )
        line = json.dumps(header.model_dump(), ensure_ascii=False).encode()
        parts = (self.idf.astype("<f8"), *(part.astype("<f4") for part in (self.directions, self.weight, self.bias)))
        return b"\n".join((line, b"".join(np.ascontiguousarray(part).tobytes() for part in parts)))

    @classmethod
    def unpack(cls, content: bytes, name: str) -> Self:
        """Raises WordsError, naming the file, if it is damaged or of another format."""
        line, _, rest = content.partition(b"\n")
        try:
            header = _Header.model_validate_json(line)
        except ValidationError as error:
            raise WordsError(f"{name}: not a file of words: {first_fault(error)}") from None
        count, width, block = len(header.terms), header.width, header.block
        shapes = [(count, width), (block, width), (block,)]
        sizes = [8 * count, *(4 * int(np.prod(shape)) for shape in shapes)]
        if len(rest) != sum(sizes):
            raise WordsError(f"{name}: has {len(rest)} bytes of numbers, not {sum(sizes)}; it is damaged")
        starts = np.cumsum([0, *sizes]).tolist()
        idf = np.frombuffer(rest, "<f8", count)
        directions, weight, bias = (
            np.frombuffer(rest, "<f4", int(np.prod(shape)), start).reshape(shape)
            for shape, start in zip(shapes, starts[1:-1], strict=True)
        )
        if not all(np.isfinite(part).all() for part in (idf, directions, weight, bias)):
            raise WordsError(f"{name}: has numbers that are not finite")
        stop_words = frozenset(header.stop_words)
        return cls(header.terms, stop_words, idf, directions, weight, bias, header.student)


def join_words(explicit: str, tags: Sequence[str], implicit: str) -> str:
    """Return all words of one answer, as the bag of words reads them."""
    return " ".join([explicit, ", ".join(tags), implicit]).strip()
