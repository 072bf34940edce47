"""dataset.toml: files, columns, and which columns become features. Opens no other file."""

import re
import string
import tomllib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self, get_args
from unicodedata import normalize

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from msd.contract.errors import plain_words
from msd.contract.openrtb import OpenrtbMapping
from msd.contract.schema import Bag, Categorical, Numeric, ValueField, is_position
from msd.dataset.problem import DatasetError, Problem
from msd.dataset.table import FILE_ENDINGS

CONFIG_FILE = "dataset.toml"
RESERVED_NAMES = (
    *("user_id", "item_id", "at", "label", "impressions", "disliked"),
    *("conversion", "converted_at", "conversion_value", "part", "title", "text"),
)
PART_NAMES = ("window", "train", "valid", "test")
_OPTIONS = {
    "categorical": {"buckets", "min_count", "serving_value"},
    "bag": {"buckets", "min_count", "max_values", "separator"},
    "numeric": {"log", "serving_value"},
}
_ALL_OPTIONS = {option for options in _OPTIONS.values() for option in options}


def _inside(file: str) -> str:
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or "\\" in file or ":" in file or "\0" in file:
        raise ValueError("should be a path inside the dataset's folder, such as events.parquet")
    if not file.endswith(FILE_ENDINGS):
        raise ValueError(f"should end in one of {', '.join(FILE_ENDINGS)}")
    return file


def places_of(template: str) -> list[str]:
    """Return the columns that a template of a text names. Raises ValueError if it is malformed, or names none."""
    try:
        places = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"the template is malformed: {error}") from None
    if not places:
        raise ValueError("the template names no column, as {title} would")
    return list(dict.fromkeys(places))


def _template(template: str) -> str:
    places_of(template)
    return template


def _not_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("should not be true or false")
    return value


def _string_or_number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("should be a string or a number")
    return value


ColumnName = Annotated[str, Field(min_length=1)]
TextTemplate = Annotated[str, Field(min_length=1), AfterValidator(_template)]
FileName = Annotated[str, AfterValidator(_inside)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
_FILE = "The table, a file or a folder of its parts: Parquet, CSV, JSON or Avro; `key=value` folders are columns."


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class EventsConfig(_Section):
    """The events, and their columns: who saw what, when, and whether they clicked."""

    file: FileName = Field(description=_FILE)
    user_id: ColumnName = Field(default="user_id", description="The user who saw the item.")
    item_id: ColumnName = Field(default="item_id", description="The item.")
    at: ColumnName = Field(default="at", description="Unix seconds, or a date and time, in UTC unless it has a zone.")
    label: ColumnName = Field(default="label", description="1 for a click, else 0.")
    impressions: ColumnName | None = Field(default=None, description="The number of impressions that a row stands for.")
    clicks: ColumnName | None = Field(default=None, description="The clicks among them; replaces `label`.")
    disliked: ColumnName | None = Field(
        default=None, description="1 for an explicit rejection, such as a low rating, which the teacher reads; else 0."
    )
    conversion: ColumnName | None = Field(default=None, description="1 if a click converted; it makes a second head.")
    converted_at: ColumnName | None = Field(default=None, description="The time of the conversion.")
    conversion_value: ColumnName | None = Field(
        default=None, description="The sum of a click's values, for models of your own."
    )

    @model_validator(mode="after")
    def _one_outcome(self) -> Self:
        if self.clicks is not None and self.impressions is None:
            raise ValueError("clicks are counted out of impressions: name the column of impressions as well")
        if self.clicks is not None and "label" in self.model_fields_set:
            raise ValueError("label and clicks both say what was clicked; name one of them")
        for name in ("disliked", "conversion"):
            if getattr(self, name) is not None and self.impressions is not None:
                raise ValueError(f"{name} is of single impressions: leave it out where rows have counts")
        for name in ("converted_at", "conversion_value"):
            if getattr(self, name) is not None and self.conversion is None:
                raise ValueError(f"{name} is of a conversion: name the column of conversions as well")
        return self


class ItemsConfig(_Section):
    """The items, one a row."""

    file: FileName = Field(description=_FILE)
    item_id: ColumnName = Field(default="item_id", description="The ID in the events.")
    title: ColumnName | None = Field(default=None, description="A name for people.")
    text: TextTemplate | None = Field(
        default=None,
        description="All that teacher and student read of an item: a template over the table's columns, such as "
        '"{title}. Genres: {genres}.". Without it items have no vectors.',
    )


class UsersConfig(_Section):
    """The users, one a row; leave the section out if nothing is known of them."""

    file: FileName = Field(description=_FILE)
    user_id: ColumnName = Field(default="user_id", description="The ID in the events.")
    text: TextTemplate | None = Field(default=None, description="A template, as of the items.")


class SplitConfig(_Section):
    """Cuts of the events in time, as shares of their number; events after `valid` are the test part."""

    by: Literal["time", "user"] = Field(
        default="time", description="time: cuts of the log, as a service meets it; user: of each user's own events."
    )
    profile_window: Share = Field(default=0.5, description="The end of what the teacher may read of the user.")
    train: Share = Field(default=0.8, description="The end of what is trained on, the window included.")
    valid: Share = Field(default=0.9, description="The end of what stops and calibrates.")
    column: ColumnName | None = Field(
        default=None, description="A column of the events that says window, train, valid or test, in place of cuts."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.column is not None and (cuts := sorted(self.model_fields_set - {"column"})):
            raise ValueError(f"column says which part each event is in, and so does {', '.join(cuts)}; keep one way")
        return self

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if not self.profile_window < self.train < self.valid:
            raise ValueError("the cuts should ascend: profile_window < train < valid")
        return self


class HistoryConfig(_Section):
    """A user's latest impressions."""

    length: int = Field(default=50, ge=1, le=1000, description="The number that the model sees.")


class IdsConfig(_Section):
    """Embeddings of user and item IDs."""

    min_count: int = Field(default=2, ge=1, description="IDs with fewer training rows share one embedding.")
    buckets: Annotated[int, Field(ge=1, le=2**24)] | None = Field(
        default=None, description="Number of hashes of all IDs."
    )


class CountsConfig(_Section):
    """Click rates of items and users, smoothed towards the overall rate."""

    half_life_days: Positive = Field(default=180.0, description="The age at which an event counts half.")
    prior_strength: Positive = Field(default=20.0, description="The weight of the overall rate, in impressions.")
    age_cap_days: Positive = Field(default=180.0, description="The largest age of counts.")


class OpenrtbConfig(OpenrtbMapping):
    """The values of a BidRequest that are the user's ID and features ([OpenRTB](openrtb.md))."""

    column: ColumnName | None = Field(default=None, description="For training: the JSON of each event's BidRequest.")
    imp: ColumnName = Field(default="imp_id", description="For training: the ID of the event's impression in it.")

    @property
    def mapping(self) -> OpenrtbMapping:
        """The mapping as a bundle stores it."""
        return OpenrtbMapping(**self.model_dump(exclude={"column", "imp"}))


class FeatureConfig(_Section):
    """A column that the model sees. An entry for each."""

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,62}$", description="Its name in requests.")
    side: Literal["user", "item", "context"] = Field(
        description="Its table: user, item, or context: a column of the events, which requests bring along."
    )
    kind: Literal["categorical", "bag", "numeric"] = Field(
        description="categorical: one value; bag: several; numeric: a number."
    )
    column: ColumnName | None = Field(default=None, description="Its column, if that has another name.")
    buckets: Annotated[int, Field(ge=1, le=2**24)] | None = Field(
        default=None, description="Number of hashes of the values."
    )
    min_count: int = Field(default=1, ge=1, description="Values with fewer training rows are unknown.")
    max_values: int = Field(default=8, ge=1, le=64, description="Of a bag: the most values that count.")
    separator: str = Field(default="|", min_length=1, description="Of a bag: where text is cut; lists need none.")
    log: bool = Field(default=False, description="Of a number: take its logarithm, as of prices.")
    serving_value: Annotated[str | int | float | None, BeforeValidator(_string_or_number)] = Field(
        default=None,
        description="Of a context feature known only afterwards, such as the position: its stand-in online.",
    )

    @property
    def source(self) -> str:
        """The source column."""
        return self.column or self.name

    @property
    def field(self) -> ValueField:
        """The model's field, as far as reading values needs it."""
        if self.kind == "bag":
            return Bag(name=self.name, side=self.side, max_values=self.max_values)
        return (Categorical if self.kind == "categorical" else Numeric)(name=self.name, side=self.side)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.name in RESERVED_NAMES:
            raise ValueError(f"the name {self.name!r} is reserved, as are {', '.join(RESERVED_NAMES)}")
        for option in sorted(self.model_fields_set & _ALL_OPTIONS - _OPTIONS[self.kind]):
            raise ValueError(f"{option} does not go with kind {self.kind!r}")
        if self.serving_value is not None and self.side != "context":
            raise ValueError("serving_value is for context features only")
        if self.kind == "numeric" and isinstance(self.serving_value, str):
            raise ValueError("serving_value of a numeric feature should be a number")
        if self.kind == "categorical" and isinstance(self.serving_value, float):
            raise ValueError("serving_value of a categorical feature should be a string or a whole number")
        return self


class DatasetConfig(_Section):
    """The whole dataset.toml."""

    format: Annotated[Literal[1], BeforeValidator(_not_boolean)] = Field(description="1.")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="The dataset's name, in model versions too.")
    description: str = Field(default="", description="For people.")
    # Half is for meaning and half for words, each normalised: fewer dimensions would carry nothing.
    semantic_dim: int = Field(default=128, ge=8, le=4096, description="The width of the vectors of texts when served.")
    events: EventsConfig
    items: ItemsConfig
    users: UsersConfig | None = None
    split: SplitConfig = SplitConfig()
    history: HistoryConfig = HistoryConfig()
    ids: IdsConfig = IdsConfig()
    counts: CountsConfig = CountsConfig()
    openrtb: OpenrtbConfig | None = None
    features: list[FeatureConfig] = []

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = [feature.name for feature in self.features]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"these feature names occur twice: {', '.join(repeated)}")
        lonely = [feature.name for feature in self.features if feature.side == "user"]
        if lonely and self.users is None:
            raise ValueError(f"features of the user side ({', '.join(lonely)}) need a [users] section")
        if self.openrtb is not None:
            self.openrtb.check(self.requested)
        return self

    @property
    def requested(self) -> dict[str, ValueField]:
        """The context features that requests give, by name."""
        return {one.name: one.field for one in self.side("context") if one.serving_value is None}

    @property
    def position(self) -> str | None:
        """The name of the context feature that is the position of an ad on its page, if there is one."""
        constant = (one.name for one in self.side("context") if one.serving_value is not None)
        return next(filter(is_position, constant), None)

    def side(self, side: Literal["user", "item", "context"]) -> list[FeatureConfig]:
        """Return the features of one side, in order."""
        return [feature for feature in self.features if feature.side == side]


def clean_name(name: str) -> str:
    """Return a valid feature name: `Ad Copy (en)` → `ad_copy_en`, `userId` → `user_id`, `Gerät` → `gerat`."""
    plain = re.sub("[\u0300-\u036f]", "", normalize("NFKD", name.replace("ß", "ss")))  # without accents
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", plain).lower()
    clean = re.sub(r"[^a-z0-9]+", "_", apart).strip("_")[:60]
    return clean if re.match("[a-z]", clean) else f"c_{clean}".rstrip("_")


def load_config(folder: Path) -> DatasetConfig:
    """Read `folder`/dataset.toml. Raises DatasetError naming each wrong key and the allowed values."""
    try:
        content = tomllib.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = (
            "a dataset is a folder with this file, as `msd data init` writes it"
            if folder.is_dir()
            else "no such folder"
        )
        raise DatasetError(folder, [Problem(CONFIG_FILE, f"is missing: {hint}")]) from None
    except NotADirectoryError:
        hint = f"{folder} is a file, not a dataset's folder; `msd data init {folder} DIR` makes one of a log"
        raise DatasetError(folder, [Problem(CONFIG_FILE, hint)]) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(folder, [Problem(CONFIG_FILE, f"cannot be read as TOML: {error}")]) from None
    try:
        return DatasetConfig.model_validate(content)
    except ValidationError as error:
        problems = [
            _problem(content, detail["loc"], detail["type"], plain_words(detail["msg"])) for detail in error.errors()
        ]
        raise DatasetError(folder, problems) from None


def _problem(content: dict[str, Any], loc: Sequence[str | int], kind: str, message: str) -> Problem:
    if kind == "extra_forbidden":
        section = DatasetConfig.model_fields[str(loc[0])].annotation if len(loc) > 1 else DatasetConfig
        (model,) = (kind for kind in (section, *get_args(section)) if hasattr(kind, "model_fields"))
        message = f"unknown key; allowed are {', '.join(model.model_fields)}"
    elif kind == "missing":
        message = "is missing"
    return Problem(CONFIG_FILE, message, column=_key(content, loc))


def _key(content: object, loc: Sequence[str | int]) -> str | None:
    """Return a key as text: `("features", 2, "kind")` → `features[2] (genres).kind`; entries count from 0, then their
    name."""
    key, here = "", content
    for part in loc:
        if isinstance(part, str):
            here = here.get(part) if isinstance(here, dict) else None
            key += f".{part}" if key else part
            continue
        here = here[part] if isinstance(here, list) else None
        name = here.get("name") if isinstance(here, dict) else None
        key += f"[{part}] ({name})" if isinstance(name, str) else f"[{part}]"
    return key or None
