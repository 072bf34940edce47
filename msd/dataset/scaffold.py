"""Command `msd data init`: a self-explanatory dataset of any event table, with or without tables of items and users."""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from msd.contract.files import write_text_atomic
from msd.dataset.check import DatasetReport, check_dataset
from msd.dataset.config import CONFIG_FILE, RESERVED_NAMES
from msd.dataset.core import draw_sample, read_any_ids, read_core, refuse
from msd.dataset.draft import Draft, Feature, Side, draft_text, template_of
from msd.dataset.guess import Guess, guess, is_afterwards
from msd.dataset.problem import Problem
from msd.dataset.roles import NAMES, InitError, Role, RoleName, clean_name, find_roles
from msd.dataset.table import FILE_ENDINGS, Table, read_table, write_parquet

_SHARED = 0.5
_MOSTLY = 0.8


@dataclass(frozen=True)
class SourceFiles:
    """Source files of a dataset."""

    events: Path
    items: Path | None = None
    users: Path | None = None


@dataclass(frozen=True)
class _Columns:
    """A table to write, its features, and its text columns."""

    side: Side
    ids: pl.DataFrame
    series: list[pl.Series] = field(default_factory=list)
    guesses: dict[str, Guess] = field(default_factory=dict)


def init_dataset(
    sources: SourceFiles,
    out: Path,
    chosen: Mapping[RoleName, str],
    *,
    in_order: bool = False,
    no_user: bool = False,
    sample: int | None = None,
) -> tuple[Draft, DatasetReport]:
    """Write a dataset to `out`, an empty or new folder, and check it; the draft has what was guessed.

    `chosen`: columns of the events by role, if a person named them. `in_order`: the rows' order is the time. `no_user`:
    all rows are one user's. `sample`: draw about this many rows if there are more. Raises InitError, and writes
    nothing, if files are unreadable or columns cannot be identified.
    """
    for path in (sources.events, sources.items, sources.users):
        if path is not None and not path.exists():
            raise InitError(f"{path}: there is no such file")
    if out.is_file():
        raise InitError(f"{out} is a file; name a folder for the dataset with --out")
    if out.exists() and any(out.iterdir()):
        raise InitError(f"{out} is there already; name an empty or a new folder with --out")
    events, items, users = (_read(path) for path in (sources.events, sources.items, sources.users))
    assert events is not None
    shared: dict[RoleName, Sequence[str]] = {"item": _keys(items), "user": _keys(users)}
    roles = find_roles(events, chosen, in_order=in_order, shared=shared, no_user=no_user)
    core = read_core(events, roles)
    origin = ", ".join(path.name for path in (sources.events, sources.items, sources.users) if path)
    if sample and (drawn := draw_sample(core, sample)):
        kept, told = drawn
        core = core.filter(kept)
        events, origin = replace(events, frame=events.frame.filter(kept)), f"{origin}: {told}"
    item_side = _side("item", items, core, roles["item"])
    user_side = _side("user", users, core, roles.get("user"))
    context, left_out = _distribute(events, roles, core, item_side, user_side)
    sides = [item_side, user_side, context]
    for side in sides:
        side.guesses.update((raw.name, guess(raw, context=side.side == "context")) for raw in side.series)
        left_out += [(name, one.reason) for name, one in side.guesses.items() if one.kind == "none"]
    features, tables = _named(sides)
    weights = core["impressions"] if "impressions" in core.columns else pl.Series([1]).new_from_index(0, core.height)
    clicks = core["clicks"] if "clicks" in core.columns else core["label"].cast(pl.Int64) * weights
    has_users = users is not None or any(one.kind != "none" for one in user_side.guesses.values())
    draft = Draft(
        name=re.sub(r"[^a-z0-9._-]+", "-", out.resolve().name.lower()).strip("._-")[:60] or "my-data",
        origin=origin,
        roles=roles,
        click_rate=float(clicks.sum()) / max(1.0, float(weights.sum())),
        items=template_of("item", tables["item"], features),
        users=template_of("user", tables["user"], features) if has_users else None,
        features=features,
        left_out=left_out,
    )
    _write(out, draft, tables)
    return draft, check_dataset(out)


def _write(out: Path, draft: Draft, tables: Mapping[Side, pl.DataFrame]) -> None:
    """Write tables and dataset.toml into a temporary folder, which is renamed once it is complete."""
    files: dict[str, Side] = {"events": "context", "items": "item"}
    if draft.users:
        files["users"] = "user"
    part = out.resolve().with_name(f".{out.resolve().name}.part")
    try:
        # Leftovers of a killed run.
        shutil.rmtree(part, ignore_errors=True)
        for name, side in files.items():
            write_parquet(part / f"{name}.parquet", tables[side])
        write_text_atomic(part / CONFIG_FILE, draft_text(draft))
        part.replace(out)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise InitError(f"{out} cannot be written: {error.strerror}; name another folder with --out") from None


def _read(path: Path | None) -> Table | None:
    if path is None:
        return None
    if not path.is_dir() and not path.name.endswith(FILE_ENDINGS):
        raise InitError(
            f"{path}: should be a folder or end in one of {', '.join(FILE_ENDINGS)}: save it as one of these"
        )
    problems: list[Problem] = []
    table = read_table(path.parent, path.name, problems)
    if table is None:
        raise InitError(f"{path.parent / str(problems[0])}")
    blank = table.frame.with_columns(pl.col(pl.String).replace("", None))
    return replace(table, frame=blank)


def _keys(table: Table | None) -> list[str]:
    """Return columns that could be a table's ID."""
    if table is None:
        return []
    flat = [column for column in table.frame if not column.dtype.is_nested()]
    return [column.name for column in flat if column.null_count() == 0 and column.n_unique() == column.len()]


def _side(side: Side, table: Table | None, core: pl.DataFrame, role: Role | None) -> _Columns:
    key = f"{side}_id"
    if table is None:
        return _Columns(side, core.select(pl.col(key).unique(maintain_order=True)))
    column = _key_column(side, table, core[key], role or Role(key, ""))
    ids = read_any_ids(table, column, unique=True)
    refuse(table)
    others = [series for series in table.frame if series.name != column]
    return _Columns(side, pl.DataFrame({key: ids}), others)


def _key_column(side: Side, table: Table, ids: pl.Series, role: Role) -> str:
    """Return a table's column with the events' IDs: with the same name, a likely name, or the same values."""
    if role.column in table.frame.columns:
        return role.column
    known = set(ids.to_list())
    flat = [column for column in table.frame if not column.dtype.is_nested()]
    shares = {column.name: len(known & set(column.cast(pl.String).to_list())) / len(known) for column in flat}
    likely = (*NAMES["user" if side == "user" else "item"], "id")
    for column, share in shares.items():
        if share and clean_name(column) in likely:
            return column
    for column in _keys(table):
        if shares[column] >= _SHARED:
            return column
    raise InitError(
        f"{table.file}: no column holds the {side} ids of the events, such as {', '.join(ids.head(3))}; call it "
        f"{role.column}, as the events do. Its columns are {', '.join(table.frame.columns)}"
    )


def _distribute(
    events: Table, roles: Mapping[RoleName, Role], core: pl.DataFrame, items: _Columns, users: _Columns
) -> tuple[_Columns, list[tuple[str, str]]]:
    """Assign each further column of the events to the item or user that determines it, otherwise to the context. A
    column of item IDs that are texts is the items' as well."""
    item = roles["item"].column
    texts = [item] if guess(events.frame.get_column(item)).kind == "text" else []
    used = {role.column for role in roles.values()} - set(texts)
    context, left_out = _Columns("context", core), []
    for raw in events.frame:
        if raw.name in used:
            continue
        owner = next((side for side in (items, users) if raw.name in [series.name for series in side.series]), None)
        if owner is not None:
            left_out.append((raw.name, f"of the events: the table of {owner.side}s has it"))
            continue
        determined = items if raw.name in texts else _owner(raw, core, items, users)
        if determined is None:
            context.series.append(raw)
            continue
        key = f"{determined.side}_id"
        rows = pl.DataFrame({"id": core[key], "value": raw}).drop_nulls().unique("id", keep="first")
        joined = determined.ids.join(rows, left_on=key, right_on="id", how="left", maintain_order="left")
        determined.series.append(joined.get_column("value").alias(raw.name))
    return context, left_out


def _owner(raw: pl.Series, core: pl.DataFrame, items: _Columns, users: _Columns) -> _Columns | None:
    """Return the side with one value each of an events column; None for the context."""
    if found := next((side for side in (items, users) if _depends(raw, core[f"{side.side}_id"])), None):
        return found
    # If each row is a distinct item, repetition cannot show what belongs to the item.
    alone = core["item_id"].n_unique() > core.height / 2
    if alone and "impressions" in core.columns:
        return None if is_afterwards(raw.name) else items
    if not alone or guess(raw).kind != "text":
        return None
    values = pl.DataFrame({"key": core["item_id"], "value": raw}).drop_nulls()
    distinct = values.group_by("key").agg(pl.col("value").n_unique())["value"]
    return items if distinct.len() and (distinct == 1).sum() >= _MOSTLY * distinct.len() else None


def _depends(raw: pl.Series, key: pl.Series) -> bool:
    """Return whether each key has only one value, in enough rows to exclude chance."""
    if isinstance(raw.dtype, pl.List):
        raw = raw.list.eval(pl.element().cast(pl.String)).list.join("\x1f")
    if raw.dtype.is_nested() or raw.drop_nulls().n_unique() < 2:
        return False
    pairs = pl.DataFrame({"key": key, "value": raw}).drop_nulls()
    keys = pairs["key"].n_unique()
    return pairs.height >= 2 * keys and pairs.n_unique() == keys


def _named(sides: Sequence[_Columns]) -> tuple[list[Feature], dict[Side, pl.DataFrame]]:
    """Return features with unique names, and the tables with renamed columns."""
    features: list[Feature] = []
    tables: dict[Side, pl.DataFrame] = {}
    used = set(RESERVED_NAMES)
    for side in sides:
        columns: list[pl.Series] = []
        for source, one in side.guesses.items():
            if one.kind == "none":
                continue
            taken = set(side.ids.columns) | {column.name for column in columns}
            clean, taken = clean_name(source), taken if one.kind == "text" else used | taken
            names = [clean, f"{side.side}_{clean}", *(f"{clean}_{number}" for number in range(2, 1_000))]
            name = next(name for name in names if name not in taken)
            columns.append(one.values.alias(name))
            if one.kind != "text":
                used.add(name)
                features.append(Feature(name, side.side, one.kind, one.options, source, one.reason))
        tables[side.side] = side.ids.with_columns(_compact(column) for column in columns)
    return features, tables


def _compact(values: pl.Series) -> pl.Series:
    """Write whole numbers without a fraction, so that a text says 24 and not 24.0."""
    if values.dtype == pl.Float64 and bool((values.drop_nulls() == values.drop_nulls().floor()).all()):
        return values.cast(pl.Int64, strict=False) if bool((values.drop_nulls().abs() < 2**53).all()) else values
    return values
