"""A bundle's rows of items unknown to its export: encoded as the export encodes, texts by its encoder, a teacher's
words by its bag of words.

Knows columns of values and packed rows; not where either are kept.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from msd.contract.bundle import WORDS, Bundle
from msd.contract.encode import Value, canonical
from msd.contract.errors import BundleError, MsdError, SchemaError
from msd.contract.request import MAX_TEXT_CHARS
from msd.contract.rows import Records, RowCodec, RowContents
from msd.contract.schema import MAX_ID_CHARS
from msd.contract.words import BagOfWords, join_words
from native.columns import encode_side
from service.cold.encoding import runs_of
from service.cold.text_encoder import TextEncoder

ID, TEXT, KNOWLEDGE = "id", "text", "knowledge"
# Tokens per run: more make it no faster.
_TOKENS = 2_048
_MAX_WORDS_CHARS = 4 * MAX_TEXT_CHARS

Columns = Mapping[str, Sequence[object]]
"""Raw values by name: `id`, and any of `text`, `knowledge` and the features."""
Vectors = Mapping[str, NDArray[np.float16]]
"""Vectors [D] of texts that were encoded before."""


class WrongValue(MsdError):
    """An invalid value. `place` is the index of its row in the batch."""

    def __init__(self, place: int, what: str) -> None:
        super().__init__(what)
        self.place = place
        self.what = what


class ItemRows:
    """Makes rows of items. The encoder is loaded for the first text."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._schema = bundle.schema
        self._codec = RowCodec(bundle.schema, "item", bundle.bundle_id)
        self._encoder: TextEncoder | None = None
        self._words = _words_of(bundle)
        self.size = self._codec.dtype.itemsize

    @property
    def features(self) -> list[str]:
        """Return the names of item features."""
        return list(self._schema.settable["item"])

    @property
    def reads_words(self) -> bool:
        """Return whether rows hold what a teacher wrote of an item."""
        return self._words is not None

    def pack(self, columns: Columns) -> tuple[list[str], Records]:
        """Return IDs [n] and rows [n]. Raises what `contents` does."""
        ids, contents, _ = self.contents(columns)
        return ids, self._codec.pack(contents, time.time())

    def contents(
        self, columns: Columns, vectors: Vectors | None = None, known: Sequence[bool] | None = None
    ) -> tuple[list[str], RowContents, NDArray[np.bool_]]:
        """Return IDs [n], the contents of their rows, and which have words of their knowledge. With `vectors`, no text
        is encoded: the others have none. `known` [n]: whose ID counts; by default all.

        Counts are those of an item that was never shown. Knowledge takes the place of the words that the student
        guesses from a text: an item without a text has neither. Raises WrongValue for an invalid value; BundleError or
        RuntimeRefused if texts cannot be encoded here.
        """
        ids = [_id(place, value) for place, value in enumerate(columns[ID])]
        values: dict[str, Sequence[Value]] = {
            name: self._canonical(name, columns[name]) for name in self.features if name in columns
        }
        counted = ids if known is None else [one if counts else None for one, counts in zip(ids, known, strict=True)]
        values |= {field.name: counted for field in self._schema.indexed("item") if getattr(field, "is_id", False)}
        categorical, numeric = encode_side(self._schema, "item", values, len(ids))
        semantic, present = self._semantic(columns.get(TEXT, [None] * len(ids)), vectors)
        taught = self._put_words(columns.get(KNOWLEDGE), semantic, present)
        nothing = np.zeros(len(ids))
        return ids, RowContents(categorical, numeric, semantic, present, nothing, nothing, nothing), taught

    def _canonical(self, name: str, values: Sequence[object]) -> list[Value]:
        field = self._schema.settable["item"][name]
        checked = []
        for place, value in enumerate(values):
            try:
                checked.append(canonical(field, value))
            except SchemaError as error:
                raise WrongValue(place, f"{name} {error}") from None
        return checked

    def _semantic(
        self, texts: Sequence[object], known: Vectors | None
    ) -> tuple[NDArray[np.float32] | None, NDArray[np.bool_]]:
        """Return vectors [n, D] and which rows have one; a model without vectors reads no texts."""
        present = np.zeros(len(texts), bool)
        checked = [_text(place, value) for place, value in enumerate(texts)]
        width = self._schema.semantic_width("item")
        if not width:
            return None, present
        vectors = np.zeros((len(texts), width), np.float32)
        given = {text: place for place, text in enumerate(checked) if text is not None}
        if given and known is None:
            known = dict(zip(given, self._encode(given), strict=True))
        for place, text in enumerate(checked):
            if known and text is not None and text in known:
                vectors[place], present[place] = known[text], True
        return vectors, present

    def _put_words(
        self, knowledge: Sequence[object] | None, vectors: NDArray[np.float32] | None, present: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Put what a teacher wrote into the present vectors [n, D], in place; return which have some of it."""
        if self._words is None or knowledge is None or vectors is None:
            return np.zeros(len(present), bool)
        given = [_knowledge(place, value) for place, value in enumerate(knowledge)]
        coordinates = self._words.coordinates(given)
        # Without a word that the bag knows, the student's guess stays, as in training.
        known = present & coordinates.any(axis=1)
        vectors[known, -len(self._words.bias) :] = self._words.block(coordinates[known])
        return np.asarray(known)

    def _encode(self, texts: Mapping[str, int]) -> NDArray[np.float16]:
        """Return the vectors [n, D] of texts, given with the index of a row each."""
        self._encoder = self._encoder or TextEncoder(self._bundle)
        tokens, rows = self._encoder.tokenise(list(texts)), list(texts.values())
        vectors = np.empty((len(texts), self._encoder.width), np.float16)
        for run in runs_of(tokens, _TOKENS):
            try:
                vectors[run] = self._encoder.encode([tokens[place] for place in run])
            except BundleError:
                # One by one, so that the error names the text.
                for place in run:
                    try:
                        vectors[place] = self._encoder.encode([tokens[place]])[0]
                    except BundleError as error:
                        raise WrongValue(rows[place], f"{TEXT}: {error}") from None
        return vectors


def _id(place: int, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise WrongValue(place, f"{ID} should be a string or a whole number")
    text = str(value)
    if not 0 < len(text) <= MAX_ID_CHARS or "\0" in text:
        raise WrongValue(place, f"{ID} should have from 1 to {MAX_ID_CHARS} characters, none of them NUL")
    return text


def _text(place: int, value: object) -> str | None:
    """Return the text, None if it is empty."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise WrongValue(place, f"{TEXT} should be a string")
    if len(value) > MAX_TEXT_CHARS:
        raise WrongValue(place, f"{TEXT} should have at most {MAX_TEXT_CHARS} characters")
    return value if value and not value.isspace() else None


def _knowledge(place: int, value: object) -> str:
    """Return a teacher's words: a string, or the explicit, implicit and tags of an answer. Empty if there are none."""
    if value is None or isinstance(value, str):
        words = value or ""
    elif isinstance(value, Mapping) and value.keys() <= {"explicit", "implicit", "tags"}:
        explicit, implicit, tags = (value.get(name) for name in ("explicit", "implicit", "tags"))
        parts = [explicit or "", implicit or "", *(tags or ())]
        if not all(isinstance(part, str) for part in parts):
            raise WrongValue(place, f"{KNOWLEDGE} should hold strings")
        words = join_words(parts[0], parts[2:], parts[1])
    else:
        raise WrongValue(place, f"{KNOWLEDGE} should be a string, or explicit, implicit and tags")
    if len(words) > _MAX_WORDS_CHARS:
        raise WrongValue(place, f"{KNOWLEDGE} should have at most {_MAX_WORDS_CHARS} characters")
    return words


def _words_of(bundle: Bundle) -> BagOfWords | None:
    """Return a verified bundle's bag of words. Raises BundleError or WordsError."""
    entry = bundle.manifest.files.get(WORDS)
    if entry is None:
        return None
    try:
        content = bundle.path(WORDS).read_bytes()
    except OSError as error:
        raise BundleError(f"{bundle.path(WORDS)}: {error.strerror or error}") from None
    # A file that is not held open may have changed since it was verified.
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise BundleError(f"{bundle.path(WORDS)}: its SHA-256 is not the manifest's; it was changed")
    words = BagOfWords.unpack(content, str(bundle.path(WORDS)))
    if not 0 < len(words.bias) <= bundle.schema.semantic_width("item"):
        raise BundleError(f"{bundle.path(WORDS)}: makes {len(words.bias)} numbers, which no row of this bundle has")
    return words
