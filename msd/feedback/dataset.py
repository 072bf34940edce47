"""A dataset folder of joined impressions, which continues the old dataset. Features are those of logged requests."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from msd.contract.files import write_text_atomic
from msd.contract.schema import counts_from
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
from msd.dataset.conversions import CONVERSION, CONVERSION_VALUE, CONVERTED_AT, has_conversions
from msd.dataset.load import Dataset, load_dataset
from msd.dataset.log.draft import toml_value
from msd.dataset.mapped import BLOCK, mapped
from msd.dataset.order import ranges, sort_blocks
from msd.dataset.table import write_parquet
from msd.feedback.files import FeedbackError
from msd.step import check_out

Features = Mapping[str, FeatureConfig]
_CORE = ("user_id", "item_id", "at", "label")
_CONTEXT, _SAID = "context ", "said"
"""Columns of `describe`: a prefix of context features' names, and the rest of what a request said."""


@dataclass
class Described:
    """The latest values by feature of each user and item, and items' texts. None: said to be missing."""

    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def write_dataset(
    impressions: pl.DataFrame,
    old: Dataset,
    out: Path,
    *,
    log_only: bool = False,
    since: float | None = None,
    by_time: bool = False,
) -> int:
    """Write the dataset `out`, which continues `old`, prove that it loads, and return the number of its events.

    `impressions` are those of a join by `describe`. Users and items are the old dataset's; requests update them, and
    those that only requests described are added. Events before `since` (Unix s) are left out. `by_time`: split all
    events at once by `with_parts`, in place of each user's by cuts. Raises FeedbackError, or DatasetError.
    """
    check_out(out, (), "new dataset", FeedbackError)
    in_log, in_old = "conversion" in impressions.columns, has_conversions(old.events)
    if in_log and not in_old and not log_only:
        raise FeedbackError(
            "the log says which clicks converted, and the dataset does not: leave the dataset's events out with"
            " --log-only, or send no conversions"
        )
    said = _described(impressions)
    config = _config(old, said, in_log, by_time)
    before = [] if log_only else [old.events]
    merged = [mapped(rows) for rows in _merged(config, before, impressions, since)]
    events = pl.concat(merged, rechunk=False).lazy()
    if by_time:
        events = with_parts(events, sum(rows.height for rows in merged))
    tables = {
        "events": events,
        "items": _described_table(old.items, "item_id", config.side("item"), said.items, said.texts).lazy(),
        "users": _described_table(old.users, "user_id", config.side("user"), said.users, {}).lazy(),
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


def with_parts(events: pl.LazyFrame, count: int) -> pl.LazyFrame:
    """Return events, sorted by time, with their parts: the earlier half is the window; of the later half a tenth is
    valid and a fiftieth test, so that training and counts reach up to the latest event."""
    place = pl.col("place")
    later = pl.when(place % 10 == 3).then(pl.lit("valid")).when(place % 50 == 7).then(pl.lit("test"))
    part = pl.when(place < count // 2).then(pl.lit("window")).otherwise(later.otherwise(pl.lit("train")))
    return events.with_row_index("place").with_columns(part=part).drop("place")


def _config(old: Dataset, said: Described, conversions: bool, by_time: bool) -> DatasetConfig:
    """Return the old configuration, for files whose columns have the features' names."""
    was = old.config
    has_title = bool(old.items["title"].is_not_null().any())
    has_text = bool(said.texts) or bool(old.items["text"].is_not_null().any())
    user_text = bool(old.users["text"].is_not_null().any())
    outcomes = (CONVERSION, CONVERTED_AT, CONVERSION_VALUE) if conversions else ()
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
    """Return the columns of conversions, if the dataset has them; times and values may be unknown."""
    if config.events.conversion is None:
        return []
    at = pl.col(CONVERTED_AT).floor() if CONVERTED_AT in of.columns else pl.lit(None)
    worth = pl.col(CONVERSION_VALUE) if CONVERSION_VALUE in of.columns else pl.lit(None, pl.Float64)
    return [pl.col(CONVERSION), at.cast(pl.Int64).alias(CONVERTED_AT), worth.alias(CONVERSION_VALUE)]


def _merged(
    config: DatasetConfig, old: list[pl.DataFrame], impressions: pl.DataFrame, since: float | None
) -> Iterator[pl.DataFrame]:
    """Yield the old events that the log has not, and impressions with their contexts, by ranges of time."""
    features = config.side("context")
    columns = [pl.col(one.name).cast(FEATURE_TYPES[one.kind]) for one in features]
    contexts = [_shown(one, config.position).alias(one.name) for one in features]
    at = pl.col("at").floor().cast(pl.Int64)
    for *before, shown in ranges([*old, impressions]):
        outcomes = _outcomes(config, shown)
        new = shown.select("user_id", "item_id", at, "label", *outcomes, *contexts)
        known = [one.select(*_CORE, *_outcomes(config, one), *columns) for one in before]
        kept = [one.join(new, on=["user_id", "item_id", "at"], how="anti", maintain_order="left") for one in known]
        both = pl.concat([*kept, new]).sort("at", maintain_order=True)
        yield both if since is None else both.filter(pl.col("at") >= since)


def _shown(feature: FeatureConfig, position: str | None) -> pl.Expr:
    """Return a context feature of impressions; the position is where each was shown, missing if that is unknown."""
    if feature.name != position:
        return pl.col(_CONTEXT + feature.name)
    return (pl.col("position") - 1 + counts_from(feature.serving_value)).cast(FEATURE_TYPES[feature.kind])


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


def describe(requests: pl.DataFrame, config: DatasetConfig) -> pl.DataFrame:
    """Return requests with what their bodies, the column `request`, say by the names of the dataset's features. Context
    features that a request does not name have the value that is constant online; the position is told by impressions.
    Raises FeedbackError for invalid requests."""
    sides = {side: {one.name: one for one in config.side(side)} for side in ("user", "item")}
    context = {one.name: one for one in config.side("context")}
    constants = {name: _value(one, one.serving_value) for name, one in context.items()}
    types: dict[str, pl.DataType] = {_CONTEXT + name: FEATURE_TYPES[one.kind] for name, one in context.items()}
    rows = []
    for request_id, body in requests.select("request_id", "request").iter_rows():
        try:
            request = json.loads(body)
            values = constants | _values(request.get("context"), context)
            rows.append((*values.values(), _said(request, sides)))
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise FeedbackError(f"the log's request {request_id} is not a request: {error}") from None
    more = pl.DataFrame(rows, schema={**types, _SAID: pl.String()}, orient="row")
    return pl.concat([requests, more], how="horizontal")


def _said(request: Mapping[str, Any], sides: Mapping[str, Features]) -> str | None:
    """Return what a request says of its user and of items, as JSON; None for nothing."""
    features, items = (request.get("user") or {}).get("features"), {}
    user_id = request["user_id"]
    user = {user_id: _values(features, sides["user"])} if features and user_id else {}
    for item_id, override in (request.get("items") or {}).items():
        if override:
            values, text = _values(override.get("features"), sides["item"]), override.get("text")
            if values or text:
                items[item_id] = (values, text)
    return json.dumps((user, items)) if user or items else None


def _described(impressions: pl.DataFrame) -> Described:
    """Return what the requests of impressions said, the latest by the order of the log."""
    blocks = (rows.drop_nulls(_SAID).select("request_number", _SAID) for rows in impressions.iter_slices(BLOCK))
    found = Described()
    for rows in sort_blocks(blocks, ("request_number",)).iter_slices(BLOCK):
        for said in rows[_SAID]:
            users, items = json.loads(said)
            for user_id, values in users.items():
                found.users.setdefault(user_id, {}).update(values)
            for item_id, (values, text) in items.items():
                found.items.setdefault(item_id, {}).update(values)
                if text:
                    found.texts[item_id] = text
    return found


def _values(given: Mapping[str, Any] | None, known: Features) -> dict[str, Any]:
    return {name: _value(known[name], value) for name, value in (given or {}).items() if name in known}


def _value(feature: FeatureConfig, value: Any) -> Any:  # noqa: ANN401
    if value is None:
        return None
    if feature.kind == "numeric":
        return float(value)
    return [str(one) for one in value] if feature.kind == "bag" else str(value)
