"""A dataset's folder → `Dataset`: three tables with canonical columns. Collects all problems."""

import hashlib
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import polars as pl

from msd.contract.encode import render_text
from msd.contract.errors import SchemaError
from msd.contract.files import sha256_file
from msd.dataset.aggregate import outcome_columns, with_labels
from msd.dataset.bid_requests import read_bid_requests
from msd.dataset.column import (
    read_bag,
    read_categorical,
    read_ids,
    read_labels,
    read_numeric,
    read_parts,
    read_times,
    read_unique_ids,
    read_user_ids,
)
from msd.dataset.config import CONFIG_FILE, DatasetConfig, FeatureConfig, OpenrtbConfig, load_config
from msd.dataset.order import sort_blocks
from msd.dataset.problem import DatasetError, Problem
from msd.dataset.table import Table, read_blocks, read_table


@dataclass(frozen=True)
class Dataset:
    """Events, items and users in canonical form.

    events: user_id str, item_id str, at i64 (Unix seconds), label i8 (0 or 1); impressions f64 if [events] counts them;
    disliked and conversion i8, converted_at i64 or null and conversion_value f64 or null, if [events] names their
    columns; part str if [split] names one; one column per context feature. Sorted by (at, user_id, item_id, label); IDs
    of digits come first, by number. An event's user or item may lack a row; the user of an anonymous request is its ID
    behind ANONYMOUS_PREFIX. They lie in mapped temporary files.
    items, users: their ID (one row per ID), text str or null, and one column per feature; items also title str or null.
    Feature columns: categorical str, bag list[str], numeric f64 (finite); null is missing.
    fingerprint: SHA-256 over dataset.toml and the files that it names.
    bid_requests: number of events left out because their BidRequests have no user ID that may be used, by reason; and
    of mapped values that do not fit their feature.
    """

    config: DatasetConfig
    folder: Path
    events: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame
    fingerprint: str
    bid_requests: Mapping[str, int] = field(default_factory=dict)


def load_dataset(folder: Path) -> Dataset:
    """Load a dataset. Raises DatasetError with every problem in its files: place, fault, and what is expected."""
    dataset, problems = inspect_dataset(folder)
    if dataset is None or problems:
        raise DatasetError(folder, problems)
    return dataset


def inspect_dataset(folder: Path) -> tuple[Dataset | None, list[Problem]]:
    """Return a dataset's valid rows, and its problems; no dataset if a required file or column is missing. Raises
    DatasetError if dataset.toml is wrong, because nothing can be read without it."""
    config = load_config(folder)
    problems: list[Problem] = []
    blocks = read_blocks(folder, config.events.file, problems)
    first = next(blocks, None)
    items = read_table(folder, config.items.file, problems)
    users = read_table(folder, config.users.file, problems) if config.users else None
    if first is None or items is None or (users is None) != (config.users is None):
        return None, problems
    _find_missing_columns(config, first, items, users)
    if problems:
        return None, problems
    rows, anonymous = _events(config, chain([first], blocks))
    if any(problem.column is None for problem in problems):  # a block that cannot be read
        return None, problems
    files = [CONFIG_FILE, *(table.file for table in (config.events, config.items, config.users) if table)]
    fingerprint = hashlib.sha256("\n".join(sha256_file(folder / file) for file in files).encode()).hexdigest()
    dataset = Dataset(config, folder, rows, _items(config, items), _users(config, users), fingerprint, anonymous)
    _find_strangers(dataset, problems)
    return dataset, problems


def _find_strangers(dataset: Dataset, problems: list[Problem]) -> None:
    """Find unknown IDs: single ones are allowed; if all are unknown, the two files write IDs differently."""
    config, events = dataset.config, dataset.events
    sides = [("item_id", config.items.file, config.items.item_id, dataset.items)]
    if config.users:
        sides.append(("user_id", config.users.file, config.users.user_id, dataset.users))
    for column, file, name, frame in sides:
        met = events.lazy().join(frame.lazy(), on=column, how="semi").head(1)
        if events.height and frame.height and met.collect(engine="streaming").is_empty():
            known, asked = (", ".join(ids[column].head(3)) for ids in (frame, events))
            message = f"no event has an id of this table, which holds {known} where events hold {asked}"
            problems.append(Problem(file, message, column=name))


def _find_missing_columns(config: DatasetConfig, events: Table, items: Table, users: Table | None) -> None:
    where = config.events
    part = [config.split.column] if config.split.column else []
    logged = _logged(config)
    user = [where.user_id] if logged is None else [str(logged.column), logged.imp]
    read = [one for one in config.side("context") if logged is None or one.name not in logged.features]
    _require(events, [*user, where.item_id, where.at, *outcome_columns(where), *part], read)
    title = [config.items.title] if config.items.title else []
    _require(items, [config.items.item_id, *title], config.side("item"))
    if config.items.text:
        _require_places(items, "items.text", config.items.text)
    if users and config.users:
        _require(users, [config.users.user_id], config.side("user"))
        if config.users.text:
            _require_places(users, "users.text", config.users.text)


def _require(table: Table, columns: Sequence[str], features: Sequence[FeatureConfig]) -> None:
    for column in dict.fromkeys([*columns, *(feature.source for feature in features)]):
        if column not in table.frame.columns:
            table.flag_column(column, f"is missing; the file has the columns {', '.join(table.frame.columns)}")


def _require_places(table: Table, key: str, template: str) -> None:
    try:
        places = _places(template)
    except ValueError as error:
        table.problems.append(Problem(CONFIG_FILE, f"the template is malformed: {error}", column=key))
        return
    if not places:
        table.problems.append(Problem(CONFIG_FILE, "the template names no column, as {title} would", column=key))
    for place in places:
        if place not in table.frame.columns:
            known = ", ".join(table.frame.columns)
            message = f"names {{{place}}}, which is no column of {table.file}; its columns are {known}"
            table.problems.append(Problem(CONFIG_FILE, message, column=key))


def _places(template: str) -> list[str]:
    return list(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(template) if name is not None))


def _logged(config: DatasetConfig) -> OpenrtbConfig | None:
    """Return how the events refer to BidRequests; None if they do not."""
    return config.openrtb if config.openrtb and config.openrtb.column else None


def _events(config: DatasetConfig, blocks: Iterable[Table]) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the sorted events of all blocks, and the number of anonymous ones left out, by reason."""
    anonymous = Counter[str]()
    return sort_blocks(_block_of_events(config, block, anonymous) for block in blocks), dict(anonymous)


def _block_of_events(config: DatasetConfig, table: Table, anonymous: Counter[str]) -> pl.DataFrame:
    """Return a block's events, and count the anonymous ones left out, by reason."""
    where, logged = config.events, _logged(config)
    if logged is None:
        told = pl.DataFrame({"user_id": read_user_ids(table, where.user_id)})
    else:
        told, left_out = read_bid_requests(table, logged, config.requested)
        anonymous.update(left_out)
    events = pl.DataFrame(
        {
            "user_id": told["user_id"],
            "item_id": read_ids(table, where.item_id),
            "at": read_times(table, where.at),
        }
    )
    needed = ["user_id", "item_id", "at"]
    if config.split.column:
        events = events.with_columns(part=read_parts(table, config.split.column))
        needed.append("part")
    if where.disliked:
        events = events.with_columns(disliked=read_labels(table, where.disliked))
        needed.append("disliked")
    events = events.with_columns(
        told[one.name] if one.name in told.columns else _feature(one, table).alias(one.name)
        for one in config.side("context")
    )
    if where.conversion:
        needed.append("conversion")
    events = with_labels(events, table, where).drop_nulls(needed)
    columns = "user_id", "item_id", "at", "label"
    return events.select(*columns, pl.exclude(*columns))


def _items(config: DatasetConfig, table: Table) -> pl.DataFrame:
    features = _features(config.side("item"), table)
    items = pl.DataFrame({"item_id": read_unique_ids(table, config.items.item_id)}).with_columns(
        _title(table, config.items.title),
        _texts(table, config.items.text, config.side("item"), features),
        *features,
    )
    return items.drop_nulls("item_id")


def _users(config: DatasetConfig, table: Table | None) -> pl.DataFrame:
    if table is None or config.users is None:
        return pl.DataFrame(schema={"user_id": pl.String, "text": pl.String})
    features = _features(config.side("user"), table)
    users = pl.DataFrame({"user_id": read_unique_ids(table, config.users.user_id)}).with_columns(
        _texts(table, config.users.text, config.side("user"), features), *features
    )
    return users.drop_nulls("user_id")


def _title(table: Table, column: str | None) -> pl.Series:
    if column is None:
        return pl.Series("title", [None] * table.frame.height, dtype=pl.String)
    raw = table.frame.get_column(column)
    if raw.dtype not in (pl.String, pl.Null):
        table.flag_column(column, f"has type {raw.dtype}, where text is due")
        return _title(table, None)
    return raw.cast(pl.String).alias("title")


def _features(features: Sequence[FeatureConfig], table: Table) -> list[pl.Series]:
    return [_feature(feature, table).alias(feature.name) for feature in features]


def _feature(feature: FeatureConfig, table: Table) -> pl.Series:
    if feature.kind == "numeric":
        return read_numeric(table, feature.source)
    if feature.kind == "bag":
        return read_bag(table, feature.source, feature.separator)
    return read_categorical(table, feature.source)


def _texts(
    table: Table, template: str | None, features: Sequence[FeatureConfig], values: Sequence[pl.Series]
) -> pl.Series:
    """Return the template filled for each row: with lists for bag columns, otherwise with the file's values."""
    if template is None:
        return pl.Series("text", [None] * table.frame.height, dtype=pl.String)
    bags = {
        feature.source: value.alias(feature.source)
        for feature, value in zip(features, values, strict=True)
        if feature.kind == "bag"
    }
    places = _places(template)
    rows = table.frame.select(places).with_columns(bags[place] for place in places if place in bags)
    try:
        texts = [render_text(template, row) for row in rows.iter_rows(named=True)]
    except (SchemaError, ValueError, pl.exceptions.PanicException) as error:  # the latter of times beyond Python's
        table.problems.append(Problem(CONFIG_FILE, str(error)))
        texts = [None] * table.frame.height
    return pl.Series("text", texts, dtype=pl.String)
