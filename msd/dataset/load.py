"""A dataset's folder → `Dataset`: three tables with canonical columns. Collects all problems."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
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
from msd.dataset.config import (
    CONFIG_FILE,
    DatasetConfig,
    FeatureConfig,
    ItemsConfig,
    OpenrtbConfig,
    UsersConfig,
    load_config,
    places_of,
)
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
    anonymous = Counter[str]()
    rows = sort_blocks(_block_of_events(config, block, anonymous) for block in chain([first], blocks))
    if any(problem.column is None for problem in problems):  # a block that cannot be read
        return None, problems
    files = [CONFIG_FILE, *(table.file for table in (config.events, config.items, config.users) if table)]
    fingerprint = hashlib.sha256("\n".join(sha256_file(folder / file) for file in files).encode()).hexdigest()
    dataset = Dataset(config, folder, rows, _items(config, items), _users(config, users), fingerprint, dict(anonymous))
    _find_strangers(dataset, problems)
    return dataset, problems


def _find_strangers(dataset: Dataset, problems: list[Problem]) -> None:
    """Find unknown IDs: single ones are allowed; if all are unknown, the two files write IDs differently."""
    events = dataset.events
    sides: dict[str, tuple[ItemsConfig | UsersConfig, pl.DataFrame]] = {
        "item_id": (dataset.config.items, dataset.items)
    }
    if dataset.config.users:
        sides["user_id"] = (dataset.config.users, dataset.users)
    for key, (where, frame) in sides.items():
        met = events.lazy().join(frame.lazy(), on=key, how="semi").head(1)
        if events.height and frame.height and met.collect(engine="streaming").is_empty():
            known, asked = (", ".join(ids[key].head(3)) for ids in (frame, events))
            message = f"no event has an id of this table, which holds {known} where events hold {asked}"
            problems.append(Problem(where.file, message, column=getattr(where, key)))


def _find_missing_columns(config: DatasetConfig, events: Table, items: Table, users: Table | None) -> None:
    where, logged = config.events, _logged(config)
    user = [where.user_id] if logged is None else [logged.column, logged.imp]
    read = [one.source for one in config.side("context") if logged is None or one.name not in logged.features]
    _require(events, [*user, where.item_id, where.at, *outcome_columns(where), config.split.column, *read])
    sources = {side: [feature.source for feature in config.side(side)] for side in ("item", "user")}
    _require(items, [config.items.item_id, config.items.title, *sources["item"]])
    _require_places(items, "items.text", config.items.text)
    if users and config.users:
        _require(users, [config.users.user_id, *sources["user"]])
        _require_places(users, "users.text", config.users.text)


def _require(table: Table, columns: Sequence[str | None]) -> None:
    for column in dict.fromkeys(columns):
        if column and column not in table.frame.columns:
            table.flag_column(column, f"is missing; the file has the columns {', '.join(table.frame.columns)}")


def _require_places(table: Table, key: str, template: str | None) -> None:
    for place in places_of(template) if template else ():
        if place not in table.frame.columns:
            known = ", ".join(table.frame.columns)
            message = f"names {{{place}}}, which is no column of {table.file}; its columns are {known}"
            table.problems.append(Problem(CONFIG_FILE, message, column=key))


def _logged(config: DatasetConfig) -> OpenrtbConfig | None:
    """Return how the events refer to BidRequests; None if they do not."""
    return config.openrtb if config.openrtb and config.openrtb.column else None


def _block_of_events(config: DatasetConfig, table: Table, anonymous: Counter[str]) -> pl.DataFrame:
    """Return a block's events, and count the anonymous ones left out, by reason."""
    where, logged = config.events, _logged(config)
    if logged is None:
        told = pl.DataFrame({"user_id": read_user_ids(table, where.user_id)})
    else:
        told, left_out = read_bid_requests(table, logged, config.requested)
        anonymous.update(left_out)
    needed = {
        "user_id": told["user_id"],
        "item_id": read_ids(table, where.item_id),
        "at": read_times(table, where.at),
    }
    if config.split.column:
        needed["part"] = read_parts(table, config.split.column)
    if where.disliked:
        needed["disliked"] = read_labels(table, where.disliked)
    events = pl.DataFrame(needed).with_columns(
        told[one.name] if one.name in told.columns else _feature(one, table) for one in config.side("context")
    )
    conversion = ["conversion"] if where.conversion else []
    events = with_labels(events, table, where).drop_nulls([*needed, *conversion])
    columns = "user_id", "item_id", "at", "label"
    return events.select(*columns, pl.exclude(*columns))


def _items(config: DatasetConfig, table: Table) -> pl.DataFrame:
    items = _entities(table, "item_id", config.items, config.side("item"))
    title = config.items.title
    titles = pl.Series([None] * table.frame.height, dtype=pl.String)
    if title and table.frame.schema[title] in (pl.String, pl.Null):
        titles = table.frame.get_column(title).cast(pl.String)
    elif title:
        table.flag_column(title, f"has type {table.frame.schema[title]}, where text is due")
    return items.insert_column(1, titles.alias("title")).drop_nulls("item_id")


def _users(config: DatasetConfig, table: Table | None) -> pl.DataFrame:
    if table is None or config.users is None:
        return pl.DataFrame(schema={"user_id": pl.String, "text": pl.String})
    return _entities(table, "user_id", config.users, config.side("user")).drop_nulls("user_id")


def _entities(
    table: Table, key: str, where: ItemsConfig | UsersConfig, features: Sequence[FeatureConfig]
) -> pl.DataFrame:
    """Return a table's ID, text and features; the ID is null where it is wrong."""
    ids = read_unique_ids(table, getattr(where, key)).alias(key)
    values = [_feature(feature, table) for feature in features]
    return pl.DataFrame([ids, _texts(table, where.text, features, values), *values])


def _feature(feature: FeatureConfig, table: Table) -> pl.Series:
    if feature.kind == "bag":
        return read_bag(table, feature.source, feature.separator).alias(feature.name)
    read = read_numeric if feature.kind == "numeric" else read_categorical
    return read(table, feature.source).alias(feature.name)


def _texts(
    table: Table, template: str | None, features: Sequence[FeatureConfig], values: Sequence[pl.Series]
) -> pl.Series:
    """Return the template filled for each row: with lists for bag columns, otherwise with the file's values."""
    texts: list[str | None] = [None] * table.frame.height
    if template is not None:
        pairs = zip(features, values, strict=True)
        bags = {feature.source: value.alias(feature.source) for feature, value in pairs if feature.kind == "bag"}
        places = places_of(template)
        rows = table.frame.select(places).with_columns(bags[place] for place in places if place in bags)
        try:
            texts = [render_text(template, row) for row in rows.iter_rows(named=True)]
        except (SchemaError, ValueError, pl.exceptions.PanicException) as error:  # the latter of times beyond Python's
            table.problems.append(Problem(CONFIG_FILE, str(error)))
    return pl.Series("text", texts, dtype=pl.String)
