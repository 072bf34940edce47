"""Command `msd data init`: a self-explanatory dataset of any event table, with or without tables of items and users."""

import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from msd.contract.files import write_text_atomic
from msd.dataset.afterwards import CALLED_AFTERWARDS, Shown, doubt, is_called_afterwards
from msd.dataset.check import DatasetReport, check_dataset
from msd.dataset.config import CONFIG_FILE, RESERVED_NAMES
from msd.dataset.core import draw_sample, read_any_ids, read_core, read_raw, refuse
from msd.dataset.draft import Draft, Feature, LeftOut, Side, draft_text, template_of
from msd.dataset.event_log import join_log
from msd.dataset.guess import Guess, guess
from msd.dataset.notation import Notation
from msd.dataset.position import as_position, find_positions
from msd.dataset.problem import InitError
from msd.dataset.roles import NAMES, Role, RoleName, clean_name, depends, find_roles, is_binary
from msd.dataset.table import Table, write_parquet
from msd.dataset.text_file import Found
from msd.step import check_out

_MOSTLY = 0.8


@dataclass(frozen=True)
class SourceFiles:
    """Source files of a dataset: events, or impressions, clicks and conversions; and tables of items and users."""

    events: Path
    items: Path | None = None
    users: Path | None = None
    clicks: Path | None = None
    conversions: Path | None = None

    @property
    def given(self) -> list[Path]:
        """The files that are given."""
        files = (self.events, self.clicks, self.conversions, self.items, self.users)
        return [path for path in files if path is not None]


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
    time_format: str | None = None,
    leave_out: Sequence[str] = (),
    keep: Sequence[str] = (),
    decimal: str | None = None,
    encoding: str | None = None,
    position: str | None = None,
) -> tuple[Draft, DatasetReport]:
    """Write a dataset to `out`, an empty or new folder, and check it; the draft has what was guessed.

    `chosen`: columns of the events by role, if a person named them. `in_order`: the rows' order is the time. `no_user`:
    all rows are one user's. `sample`: draw about this many rows if there are more. `time_format`: of strptime.
    `leave_out`: columns to ignore. `keep`: doubtful columns that are known before the impression. `decimal`: the mark
    of decimals, "." or ",". `encoding`: of text files. `position`: the column of the ad's position, or "none".
    Raises InitError, and writes nothing, if files are unreadable or columns cannot be identified; Doubt if one of the
    last three, or `time_format`, would tell.
    """
    for path in sources.given:
        if not path.exists():
            raise InitError(f"{path}: there is no such file")
    check_out(out, (), "new dataset", InitError)
    found = Found(encoding)
    read = {path: Notation.of(read_raw(path, found), decimal) for path in sources.given}
    tables = {path: table for path, (_, table) in read.items()}
    _refuse_unknown({"leave-out": leave_out, "keep": keep}, list(tables.values()))
    tables = {path: replace(table, frame=table.frame.drop(leave_out, strict=False)) for path, table in tables.items()}
    others = (sources.items, sources.users, sources.clicks, sources.conversions)
    items, users, clicks, conversions = (tables[path] if path else None for path in others)
    joined = join_log(tables[sources.events], clicks, conversions, chosen, time_format)
    events = joined.table
    roles = find_roles(events, joined.chosen, in_order=in_order, no_user=no_user, time_format=time_format)
    roles |= joined.roles
    core = read_core(events, roles, read[sources.events][0])
    origin = ", ".join(path.name for path in sources.given)
    if sample and (drawn := draw_sample(core, sample)):
        kept, note = drawn
        core = core.filter(kept)
        events, origin = replace(events, frame=events.frame.filter(kept)), f"{origin}: {note}"
    item_side = _side("item", items, core, roles["item"])
    user_side = _side("user", users, core, roles.get("user"))
    # A column of an items' or users' table is written as that is.
    files = (sources.events, sources.items, sources.users)
    notations = {name: read[path][0] for path in files if path for name in tables[path].frame.columns}
    context, left_out = _distribute(events, roles, core, item_side, user_side, notations)
    left_out += [LeftOut(column, "given by --leave-out") for column in leave_out]
    sides = [item_side, user_side, context]
    shown, positions = Shown.of(core), find_positions(context.series, core, position)
    for side in sides:
        for raw in side.series:
            guessed = guess(raw, context=side.side == "context", notation=notations.get(raw.name))
            if raw.name in notations and (gone := notations[raw.name].gone.get(raw.name)):
                guessed = replace(guessed, reason=f"{guessed.reason}; {gone}")
            if side is context and raw.name in positions:
                guessed = as_position(guessed, positions[raw.name])
            if raw.name not in keep and (evidence := _doubt(raw, guessed, side, core, shown)):
                left_out.append(LeftOut(raw.name, evidence, "doubtful"))
                continue
            side.guesses[raw.name] = guessed
            if guessed.kind == "none":
                left_out.append(LeftOut(raw.name, guessed.reason))
    features, written = _named(sides, keep)
    has_users = users is not None or any(guessed.kind != "none" for guessed in user_side.guesses.values())
    draft = Draft(
        name=re.sub(r"[^a-z0-9._-]+", "-", out.resolve().name.lower()).strip("._-")[:60] or "my-data",
        origin=origin,
        roles=roles,
        click_rate=float(shown.clicks.sum()) / max(1.0, float(shown.impressions.sum())),
        items=template_of("item", written["item"], features),
        users=template_of("user", written["user"], features) if has_users else None,
        features=features,
        left_out=left_out,
        notes=found.notes,
    )
    _write(out, draft, written)
    return draft, check_dataset(out)


def _refuse_unknown(options: Mapping[str, Sequence[str]], tables: Sequence[Table]) -> None:
    """Raise InitError if an option names a column that no table has."""
    known = dict.fromkeys(column for table in tables for column in table.frame.columns)
    for option, columns in options.items():
        if unknown := [column for column in columns if column not in known]:
            raise InitError(f"--{option} {unknown[0]}: there is no such column; there are {', '.join(known)}")


def _doubt(raw: pl.Series, guessed: Guess, side: "_Columns", core: pl.DataFrame, shown: Shown) -> str | None:
    """Return why a column is not taken before a person names it: the evidence that only the outcome tells it."""
    if guessed.kind in ("none", "text"):
        return CALLED_AFTERWARDS if is_called_afterwards(raw.name) else None
    if "serving_value" in guessed.options:
        return None
    values = _per_event(guessed.values, side, core)
    evidence = doubt(raw.name, values, shown)
    is_outcome = evidence and "only when clicked" in evidence and side.side == "context" and is_binary(raw, 2)
    if is_outcome and "conversion" not in core.columns:
        return f"{evidence}; as a second outcome: --conversion {raw.name}"
    return evidence


def _per_event(values: pl.Series, side: "_Columns", core: pl.DataFrame) -> pl.Series:
    """Return a side's values by event."""
    if side.side == "context":
        return values
    key = f"{side.side}_id"
    rows = side.ids.select(key).with_columns(value=values)
    return core.select(key).join(rows, on=key, how="left", maintain_order="left")["value"]


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
        raise InitError(f"{out} cannot be written: {error.strerror}; name another folder") from None


def _side(side: Side, table: Table | None, core: pl.DataFrame, role: Role | None) -> _Columns:
    key = f"{side}_id"
    if table is None:
        return _Columns(side, core.select(pl.col(key).unique(maintain_order=True)))
    column = _key_column(side, table, core[key], role or Role(key, ""))
    ids = read_any_ids(table, column, unique=True)
    refuse(table)
    others, unlisted = table.frame.drop(column), core[key].unique(maintain_order=True)
    # If the table lists none of the events' IDs, the two write them differently, which the check says.
    if ids.is_in(unlisted.implode()).any():
        unlisted = unlisted.filter(~unlisted.is_in(ids.implode()))
        ids, others = pl.concat([ids, unlisted]), pl.concat([others, others.clear(unlisted.len())])
    return _Columns(side, pl.DataFrame({key: ids}), list(others))


def _key_column(side: Side, table: Table, ids: pl.Series, role: Role) -> str:
    """Return a table's column with the events' IDs: with the same name, or a likely one."""
    if role.column in table.frame.columns:
        return role.column
    known = set(ids.to_list())
    flat = [column for column in table.frame if not column.dtype.is_nested()]
    shares = {column.name: len(known & set(column.cast(pl.String).to_list())) / len(known) for column in flat}
    likely = (*NAMES["user" if side == "user" else "item"], "id")
    for column, share in shares.items():
        if share and clean_name(column) in likely:
            return column
    raise InitError(
        f"{table.file}: no column holds the {side} ids of the events, such as {', '.join(ids.head(3))}; call it "
        f"{role.column}, as the events do. Its columns are {', '.join(table.frame.columns)}"
    )


def _distribute(
    events: Table,
    roles: Mapping[RoleName, Role],
    core: pl.DataFrame,
    items: _Columns,
    users: _Columns,
    notations: Mapping[str, Notation],
) -> tuple[_Columns, list[LeftOut]]:
    """Assign each further column of the events to the item or user that determines it, otherwise to the context. A
    column of item IDs that are texts is the items' as well."""
    item = roles["item"].column
    texts = [item] if guess(events.frame.get_column(item), notation=notations.get(item)).kind == "text" else []
    used = {role.column for role in roles.values()} - set(texts)
    context, left_out = _Columns("context", core), list[LeftOut]()
    for raw in events.frame:
        if raw.name in used:
            continue
        owner = next((side for side in (items, users) if raw.name in [series.name for series in side.series]), None)
        if owner is not None:
            left_out.append(LeftOut(raw.name, f"of the events: the table of {owner.side}s has it"))
            continue
        determined = items if raw.name in texts else _owner(raw, core, items, users, notations.get(raw.name))
        if determined is None:
            context.series.append(raw)
            continue
        key = f"{determined.side}_id"
        rows = pl.DataFrame({"id": core[key], "value": raw}).drop_nulls().unique("id", keep="last")
        joined = determined.ids.join(rows, left_on=key, right_on="id", how="left", maintain_order="left")
        determined.series.append(joined.get_column("value").alias(raw.name))
    return context, left_out


def _owner(
    raw: pl.Series, core: pl.DataFrame, items: _Columns, users: _Columns, notation: Notation | None
) -> _Columns | None:
    """Return the side with one value each of an events column; None for the context."""
    if found := next((side for side in (items, users) if depends(raw, core[f"{side.side}_id"])), None):
        return found
    # If each row is a distinct item, repetition cannot show what belongs to the item.
    alone = core["item_id"].n_unique() > core.height / 2
    if alone and "impressions" in core.columns:
        return None if is_called_afterwards(raw.name) else items
    if guess(raw, notation=notation).kind != "text":
        return None
    values = pl.DataFrame({"key": core["item_id"], "value": raw}).drop_nulls()
    # A text of one event only may be of the moment.
    repeated = values.group_by("key").agg(pl.col("value").n_unique(), rows=pl.len()).filter(pl.col("rows") > 1)
    distinct = repeated["value"]
    return items if distinct.len() and (distinct == 1).sum() >= _MOSTLY * distinct.len() else None


def _named(sides: Sequence[_Columns], keep: Collection[str]) -> tuple[list[Feature], dict[Side, pl.DataFrame]]:
    """Return features with unique names, and the tables with renamed columns."""
    of_side = {"item": "yes, of the item", "user": "yes, of the user", "context": "assumed"}
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
                known = "given by --keep" if source in keep else of_side[side.side]
                features.append(Feature(name, side.side, one.kind, one.options, source, one.reason, known))
        tables[side.side] = side.ids.with_columns(_compact(column) for column in columns)
    return features, tables


def _compact(values: pl.Series) -> pl.Series:
    """Write whole numbers without a fraction, so that a text says 24 and not 24.0."""
    if values.dtype == pl.Float64 and bool((values.drop_nulls() == values.drop_nulls().floor()).all()):
        return values.cast(pl.Int64, strict=False) if bool((values.drop_nulls().abs() < 2**53).all()) else values
    return values
