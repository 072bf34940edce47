"""A dataset folder of joined impressions, which continues the old dataset. Features are those of logged requests."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from msd.contract.files import write_text_atomic
from msd.dataset.column import FEATURE_TYPES
from msd.dataset.config import (
    CONFIG_FILE,
    DatasetConfig,
    EventsConfig,
    FeatureConfig,
    ItemsConfig,
    SplitConfig,
    UsersConfig,
)
from msd.dataset.conversions import CONVERSION, CONVERTED_AT, has_conversions
from msd.dataset.draft import toml_value
from msd.dataset.load import Dataset, load_dataset
from msd.dataset.table import write_parquet
from msd.feedback.files import FeedbackError
from msd.feedback.impressions import is_anonymous

Features = Mapping[str, FeatureConfig]
_CORE = ("user_id", "item_id", "at", "label")


@dataclass
class Described:
    """Values by feature: of each request's context (request_id and a column for each), and the latest of each user and
    item; items' texts besides.

    A value that is None was said to be missing. Names that the dataset has no feature of are left out.
    """

    contexts: pl.DataFrame
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def write_dataset(
    impressions: pl.DataFrame,
    requests: Iterable[pl.DataFrame],
    old: Dataset,
    out: Path,
    *,
    log_only: bool = False,
    since: float | None = None,
    by_time: bool = False,
) -> int:
    """Write the dataset `out`, which continues `old`, prove that it loads, and return the number of its events.

    `requests` have the column `request`. Users and items are the old dataset's; requests update them, and those that
    only requests described are added. Events before `since` (Unix s) are left out. `by_time`: split all events at once
    by `with_parts`, in place of each user's by cuts. Raises FeedbackError, or DatasetError.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FeedbackError(f"{out} is there already; name an empty or a new folder with --out")
    # A dataset's events all have a user.
    impressions = impressions.filter(is_anonymous().not_())
    if impressions.is_empty():
        raise FeedbackError("all impressions are of anonymous users: there is nothing to train on")
    in_log, in_old = "conversion" in impressions.columns, has_conversions(old.events)
    if in_log and not in_old and not log_only:
        raise FeedbackError(
            "the log says which clicks converted, and the dataset does not: leave the dataset's events out with"
            " --log-only, or send no conversions"
        )
    said = described(requests, impressions["request_id"], old.config)
    config = _config(old, said, in_log, by_time)
    events = _events(config, impressions, said.contexts)
    if not log_only:
        events = pl.concat([_old_events(config, old, events), events]).sort("at", maintain_order=True)
    if since is not None:
        events = events.filter(pl.col("at") >= since)
    if by_time:
        events = with_parts(events)
    tables = {
        "events": events,
        "items": _described_table(old.items, "item_id", config.side("item"), said.items, said.texts),
        "users": _described_table(old.users, "user_id", config.side("user"), said.users, {}),
    }
    if config.users is None:
        del tables["users"]
    try:
        for name, table in tables.items():
            write_parquet(out / f"{name}.parquet", table)
        # Last: a folder is a dataset once it has this file.
        write_text_atomic(out / CONFIG_FILE, _toml(config))
    except OSError as error:
        raise FeedbackError(f"{out} cannot be written: {error.strerror}; name another folder with --out") from None
    return load_dataset(out).events.height


def with_parts(events: pl.DataFrame) -> pl.DataFrame:
    """Return events, sorted by time, with their parts: the earlier half is the window; of the later half a tenth is
    valid and a fiftieth test, so that training and counts reach up to the latest event."""
    place = pl.int_range(pl.len())
    later = pl.when(place % 10 == 3).then(pl.lit("valid")).when(place % 50 == 7).then(pl.lit("test"))
    part = pl.when(place < pl.len() // 2).then(pl.lit("window")).otherwise(later.otherwise(pl.lit("train")))
    return events.with_columns(part=part)


def _config(old: Dataset, said: Described, conversions: bool, by_time: bool) -> DatasetConfig:
    """Return the old configuration, for files whose columns have the features' names."""
    was = old.config
    has_title = bool(old.items["title"].is_not_null().any())
    has_text = bool(said.texts) or bool(old.items["text"].is_not_null().any())
    user_text = bool(old.users["text"].is_not_null().any())
    outcomes = (CONVERSION, CONVERTED_AT) if conversions else ()
    # Given parts of old events cannot apply to new ones.
    cuts = was.split if was.split.column is None else SplitConfig()
    split = SplitConfig(column="part") if by_time else cuts
    return was.model_copy(
        update={
            "events": EventsConfig(file="events.parquet", **{name: name for name in outcomes}),
            "items": ItemsConfig(
                file="items.parquet", title="title" if has_title else None, text="{text}" if has_text else None
            ),
            "users": UsersConfig(file="users.parquet", text="{text}" if user_text else None) if was.users else None,
            "split": split,
            # The events hold what BidRequests told.
            "openrtb": was.openrtb and was.openrtb.model_copy(update={"column": None}),
            "features": [feature.model_copy(update={"column": None}) for feature in was.features],
        }
    )


def _outcomes(config: DatasetConfig, of: pl.DataFrame) -> list[pl.Expr]:
    """Return the columns of conversions, if the dataset has them; times may be unknown."""
    if config.events.conversion is None:
        return []
    at = pl.col(CONVERTED_AT).floor() if CONVERTED_AT in of.columns else pl.lit(None)
    return [pl.col(CONVERSION), at.cast(pl.Int64).alias(CONVERTED_AT)]


def _events(config: DatasetConfig, impressions: pl.DataFrame, contexts: pl.DataFrame) -> pl.DataFrame:
    """Return impressions with their contexts."""
    said = impressions.join(contexts, on="request_id", how="inner", maintain_order="left")
    outcomes = _outcomes(config, impressions)
    features = [one.name for one in config.side("context")]
    return said.select("user_id", "item_id", pl.col("at").floor().cast(pl.Int64), "label", *outcomes, *features)


def _old_events(config: DatasetConfig, old: Dataset, new: pl.DataFrame) -> pl.DataFrame:
    """Return the old dataset's events, without those that the log has too."""
    columns = [pl.col(one.name).cast(FEATURE_TYPES[one.kind]) for one in config.side("context")]
    kept = old.events.select(*_CORE, *_outcomes(config, old.events), *columns)
    return kept.join(new.select("user_id", "item_id", "at").unique(), on=["user_id", "item_id", "at"], how="anti")


def _described_table(
    old: pl.DataFrame,
    key: str,
    features: list[FeatureConfig],
    values: Mapping[str, Mapping[str, Any]],
    texts: Mapping[str, str],
) -> pl.DataFrame:
    """Return the old table, updated by requests, with rows for missing IDs."""
    rows = {row[key]: row for row in old.iter_rows(named=True)}
    for one in (*values, *texts):
        row = rows.setdefault(one, dict.fromkeys(old.columns) | {key: one})
        row |= values.get(one, {})
        # An item's own text overrides a request's; the service does the same.
        row["text"] = row["text"] or texts.get(one)
    types = {**old.schema, **{feature.name: FEATURE_TYPES[feature.kind] for feature in features}}
    return pl.DataFrame(list(rows.values()), schema=types)


def _toml(config: DatasetConfig) -> str:
    """Return dataset.toml with all non-default values."""
    document = config.model_dump(exclude_none=True, exclude_defaults=True, exclude={"format"})
    tables = {name: value for name, value in document.items() if isinstance(value, dict)}
    plain = {name: value for name, value in document.items() if name not in tables and name != "features"}
    lines = ["# Made by `msd join` of a service's log.", "format = 1", *_entries(plain)]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *_entries(table)]
    for feature in document.get("features", []):
        lines += ["", "[[features]]", *_entries(feature)]
    return "\n".join(lines) + "\n"


def _entries(values: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {_written(value)}" for name, value in values.items()]


def _written(value: Any) -> str:  # noqa: ANN401
    return f"{{ {', '.join(_entries(value))} }}" if isinstance(value, dict) else toml_value(value)


def described(requests: Iterable[pl.DataFrame], wanted: pl.Series, config: DatasetConfig) -> Described:
    """Return what the `wanted` requests said, the first of those with one ID. Context features that a request does not
    name have the value that is constant online. Raises FeedbackError for invalid requests."""
    sides = {side: {one.name: one for one in config.side(side)} for side in ("user", "item")}
    context = {one.name: one for one in config.side("context")}
    constants = {name: _value(one, one.serving_value) for name, one in context.items()}
    types: dict[str, pl.DataType] = {"request_id": pl.String()}
    types |= {name: FEATURE_TYPES[one.kind] for name, one in context.items()}
    found, due, contexts = Described(pl.DataFrame(schema=types)), set(wanted.to_list()), []
    for frame in requests:
        rows = []
        for request_id, body in frame.select("request_id", "request").iter_rows():
            if request_id not in due:
                continue
            due.remove(request_id)
            try:
                request = json.loads(body)
                values = constants | _values(request.get("context"), context)
                _describe(request, sides, found)
            except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
                raise FeedbackError(f"the log's request {request_id} is not a request: {error}") from None
            rows.append((request_id, *values.values()))
        contexts.append(pl.DataFrame(rows, schema=types, orient="row"))
    found.contexts = pl.concat([found.contexts, *contexts])
    return found


def _describe(request: Mapping[str, Any], sides: Mapping[str, Features], found: Described) -> None:
    user = (request.get("user") or {}).get("features")
    if user:
        own = found.users.setdefault(request["user_id"], {})
        own |= _values(user, sides["user"])
    for item_id, override in (request.get("items") or {}).items():
        if not override:
            continue
        values = _values(override.get("features"), sides["item"])
        text = override.get("text")
        if values or text:
            found.items.setdefault(item_id, {}).update(values)
        if text:
            found.texts[item_id] = text


def _values(given: Mapping[str, Any] | None, known: Features) -> dict[str, Any]:
    return {name: _value(known[name], value) for name, value in (given or {}).items() if name in known}


def _value(feature: FeatureConfig, value: Any) -> Any:  # noqa: ANN401
    if value is None:
        return None
    if feature.kind == "numeric":
        return float(value)
    return [str(one) for one in value] if feature.kind == "bag" else str(value)
