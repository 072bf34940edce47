"""Schema of a model's inputs: an ordered, frozen list of fields, each of one kind and side, and the tensors that they
fill.

Knows names, widths and dtypes. Does not know where values come from, nor how they are encoded (`native.columns`).
"""

import hashlib
import re
from functools import cached_property
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Side = Literal["user", "item", "context"]
SIDES: tuple[Side, ...] = ("user", "item", "context")
MAX_ID_CHARS = 256
MAX_VALUE_CHARS = 256
MAX_HISTORY = 1_000
"""Impressions in a history: of a request, a row, a live state."""
STATE_FEATURES = ("smoothed_log_odds", "log_impressions", "log_age_days")
OUTCOME_FEATURES = ("impressions", "clicks", "age_days", "smoothed_log_odds")

_POSITION = re.compile(r"(^|_)(position|pos|rank|slot|slot_position)$")

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,62}$")]


def is_position(name: str) -> bool:
    """Return whether a feature's name says that it is the place on the page where an ad was shown."""
    return bool(_POSITION.search(name))


def counts_from(served: str | float | None) -> int:
    """Return whether a position feature counts places from 0 or from 1, by its serving constant."""
    return 0 if served in ("0", 0) else 1


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _Indexed(_Frozen):
    """Values that index an embedding table: by a vocabulary, or hashed into buckets."""

    name: Name
    side: Side
    vocabulary: tuple[str, ...] = ()
    buckets: Annotated[int, Field(ge=1, le=2**24)] | None = None

    @model_validator(mode="after")
    def _one_way_of_indexing(self) -> Self:
        if self.buckets is not None and self.vocabulary:
            raise ValueError(f"field {self.name!r} has both a vocabulary and buckets")
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise ValueError(f"field {self.name!r} lists a value twice in its vocabulary")
        return self

    @property
    def size(self) -> int:
        """Rows of the embedding table: 0 is missing, 1 is unknown (vocabularies only), then the values or buckets."""
        return 2 + len(self.vocabulary) if self.buckets is None else 1 + self.buckets

    @cached_property
    def index(self) -> dict[str | None, int]:
        """value → row of the embedding table; None, a missing value, has row 0."""
        return {None: 0, **{value: position for position, value in enumerate(self.vocabulary, start=2)}}


class Categorical(_Indexed):
    """One value, e.g. a device or a category; with `is_id`, the user's or item's own id."""

    kind: Literal["categorical"] = "categorical"
    is_id: bool = False
    serving_value: str | None = None

    @property
    def width(self) -> int:
        """Columns of the categorical tensor."""
        return 1


class Bag(_Indexed):
    """Up to `max_values` values without order, e.g. genres; further ones are ignored."""

    kind: Literal["bag"] = "bag"
    max_values: Annotated[int, Field(ge=1, le=64)]

    @property
    def width(self) -> int:
        """Columns of the categorical tensor."""
        return self.max_values


class Numeric(_Frozen):
    """One finite number, standardised by `(f(x) − mean) / scale`, f being sign(x)·log1p|x| if `log`."""

    kind: Literal["numeric"] = "numeric"
    name: Name
    side: Side
    log: bool = False
    mean: float = 0.0
    scale: Annotated[float, Field(gt=0)] = 1.0
    serving_value: float | None = None

    @property
    def width(self) -> int:
        """Columns of the dense tensor: the value and whether it is missing."""
        return 2


class Sequence(_Frozen):
    """A user's impressions, oldest first; the last `length` count."""

    kind: Literal["sequence"] = "sequence"
    name: Name
    side: Literal["user"] = "user"
    length: Annotated[int, Field(ge=1, le=MAX_HISTORY)]


class Semantic(_Frozen):
    """The student's vector of the item's or user's text."""

    kind: Literal["semantic"] = "semantic"
    name: Name
    side: Literal["user", "item"]
    dim: Annotated[int, Field(ge=1, le=4096)]


class State(_Frozen):
    """Decayed counts of impressions and clicks: log-odds of the smoothed click rate, their amount and age."""

    kind: Literal["state"] = "state"
    name: Name
    side: Literal["user", "item"]
    prior: Annotated[float, Field(gt=0, lt=1)]
    strength: Annotated[float, Field(gt=0)]
    half_life_s: Annotated[float, Field(gt=0)]
    age_cap_s: Annotated[float, Field(gt=0)]


SchemaField = Annotated[Categorical | Bag | Numeric | Sequence | Semantic | State, Field(discriminator="kind")]
ValueField = Categorical | Bag | Numeric


class FieldsOfSide(NamedTuple):
    """One side's fields by kind, each in the schema's order."""

    indexed: tuple[Categorical | Bag, ...]
    numerics: tuple[Numeric, ...]
    state: State | None
    semantic: Semantic | None

    @classmethod
    def among(cls, fields: tuple[SchemaField, ...], side: Side) -> Self:
        own = [field for field in fields if field.side == side]
        return cls(
            tuple(field for field in own if isinstance(field, _Indexed)),
            tuple(field for field in own if isinstance(field, Numeric)),
            next((field for field in own if isinstance(field, State)), None),
            next((field for field in own if isinstance(field, Semantic)), None),
        )


class TensorSpec(_Frozen):
    """One input of the ranker. `shape` counts from the second axis on; the first is 1 (user, context) or N (item)."""

    name: str
    side: Side
    dtype: Literal["int32", "float32"]
    shape: tuple[int, ...]


class FeatureSchema(_Frozen):
    """All fields of a model in their order; two equal schemas have equal hashes and fill equal tensors."""

    fields: tuple[SchemaField, ...]
    item_text: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = [field.name for field in self.fields]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"field names occur twice: {', '.join(repeated)}")
        for kind in (Semantic, State):
            for side in SIDES:
                if sum(isinstance(field, kind) and field.side == side for field in self.fields) > 1:
                    raise ValueError(f"more than one {kind.__name__.lower()} field on the {side} side")
        if sum(isinstance(field, Sequence) for field in self.fields) != 1:
            raise ValueError("a schema has exactly one sequence field, the user's history")
        for field in self.fields:
            if getattr(field, "serving_value", None) is not None and field.side != "context":
                raise ValueError(f"field {field.name!r}: only a context field can have a serving value")
        dims = {field.dim for field in self.fields if isinstance(field, Semantic)}
        if len(dims) > 1:
            raise ValueError("the semantic fields differ in dimension")
        return self

    @cached_property
    def schema_hash(self) -> str:
        """SHA-256 of the canonical JSON form, in hexadecimal."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @cached_property
    def by_side(self) -> "dict[Side, FieldsOfSide]":
        """Fields by side and kind, cached: requests use them constantly."""
        return {side: FieldsOfSide.among(self.fields, side) for side in SIDES}

    def indexed(self, side: Side) -> tuple[Categorical | Bag, ...]:
        """Return the fields of the side's categorical tensor, in the order of its columns."""
        return self.by_side[side].indexed

    def numerics(self, side: Side) -> tuple[Numeric, ...]:
        """Return the fields that open the side's dense tensor, in the order of its columns."""
        return self.by_side[side].numerics

    def state(self, side: Side) -> State | None:
        return self.by_side[side].state

    def semantic(self, side: Side) -> Semantic | None:
        return self.by_side[side].semantic

    @cached_property
    def history(self) -> Sequence:
        return next(field for field in self.fields if isinstance(field, Sequence))

    @cached_property
    def columns(self) -> dict[str, slice]:
        """Field name → its columns in its side's categorical tensor, or in the side's numeric columns."""
        places: dict[str, slice] = {}
        for side in SIDES:
            for group in (self.indexed(side), self.numerics(side)):
                start = 0
                for field in group:
                    places[field.name] = slice(start, start + field.width)
                    start += field.width
        return places

    @cached_property
    def settable(self) -> dict[Side, dict[str, ValueField]]:
        """Fields that a request may set, by side and name: neither IDs nor serving constants."""
        found: dict[Side, dict[str, ValueField]] = {side: {} for side in SIDES}
        for field in self.fields:
            if isinstance(field, Categorical | Bag | Numeric):
                fixed = getattr(field, "is_id", False) or getattr(field, "serving_value", None) is not None
                if not fixed:
                    found[field.side][field.name] = field
        return found

    @cached_property
    def serving_constants(self) -> dict[str, str | float]:
        """Context fields with real values offline and one constant online, e.g. the position."""
        values = {field.name: getattr(field, "serving_value", None) for field in self.fields}
        return {name: value for name, value in values.items() if value is not None}

    @cached_property
    def position(self) -> str | None:
        """Name of the serving constant that is the position of an ad on its page, if there is one."""
        return next(filter(is_position, self.serving_constants), None)

    def slot_of(self, asked: int | None = None) -> int | None:
        """Return the place on the page, from 1, that a request is scored for, given what it asks for; None if no
        serving constant says one."""
        if asked is not None and self.position is not None:
            return asked
        served = self.serving_constants.get(self.position or "", "")
        told = f"{served:g}" if isinstance(served, float) else served
        return 1 - counts_from(served) + int(told) if told.isascii() and told.isdigit() else None

    def at_slot(self, slot: int) -> dict[str, str | float]:
        """Return the serving constants for another place of the page; unchanged if none of them is the position."""
        constants = self.serving_constants
        if self.position is None:
            return constants
        served = constants[self.position]
        place = slot - 1 + counts_from(served)
        return {**constants, self.position: float(place) if isinstance(served, float) else str(place)}

    def categorical_width(self, side: Side) -> int:
        return sum(field.width for field in self.indexed(side))

    def numeric_width(self, side: Side) -> int:
        """Return the number of columns of the side's numeric values and their missing flags."""
        return sum(field.width for field in self.numerics(side))

    def dense_width(self, side: Side) -> int:
        """Return the number of columns of the side's dense tensor: numerics, then counts, then whether the semantic
        vector is present."""
        return self.numeric_width(side) + len(STATE_FEATURES) * bool(self.state(side)) + bool(self.semantic(side))

    def semantic_width(self, side: Side) -> int:
        semantic = self.semantic(side)
        return semantic.dim if semantic else 0

    @cached_property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """The ranker's inputs in order; a tensor without columns is left out."""
        length = self.history.length
        specs = []
        for side in SIDES:
            specs += [
                TensorSpec(name=f"{side}_categorical", side=side, dtype="int32", shape=(self.categorical_width(side),)),
                TensorSpec(name=f"{side}_dense", side=side, dtype="float32", shape=(self.dense_width(side),)),
                TensorSpec(name=f"{side}_semantic", side=side, dtype="float32", shape=(self.semantic_width(side),)),
            ]
        specs += [
            TensorSpec(
                name="history_categorical", side="user", dtype="int32", shape=(length, self.categorical_width("item"))
            ),
            TensorSpec(
                name="history_semantic", side="user", dtype="float32", shape=(length, self.semantic_width("item"))
            ),
            TensorSpec(name="history_mask", side="user", dtype="float32", shape=(length,)),
            TensorSpec(name="history_outcomes", side="user", dtype="float32", shape=(length, len(OUTCOME_FEATURES))),
        ]
        return tuple(spec for spec in specs if spec.shape[-1])
