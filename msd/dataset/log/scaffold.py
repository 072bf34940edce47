"""Command `msd data init`: a self-explanatory dataset of any event table, with or without tables of items and users."""

import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from msd.contract.files import write_text_atomic
from msd.dataset.afterwards import CALLED_AFTERWARDS, Shown, doubt, is_called_afterwards
from msd.dataset.check import DatasetReport, check_dataset
from msd.dataset.column import is_anonymous
from msd.dataset.config import CONFIG_FILE, RESERVED_NAMES, clean_name
from msd.dataset.log.codes import probed
from msd.dataset.log.core import draw_sample, read_any_ids, read_core, read_raw, refuse
from msd.dataset.log.draft import Draft, draft_text, template_of
from msd.dataset.log.event_log import join_log
from msd.dataset.log.guess import Guess, Side, guess
from msd.dataset.log.notation import LogTable
from msd.dataset.log.position import as_position, find_positions
from msd.dataset.log.roles import NAMES, Role, RoleName, depends, find_roles, is_binary
from msd.dataset.problem import InitError
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
    def given(self) -> dict[str, Path]:
        """The files that are given, by what a row is."""
        files = {"impression": self.events, "click": self.clicks, "conversion": self.conversions}
        files |= {"item": self.items, "user": self.users}
        return {kind: path for kind, path in files.items() if path is not None}


@dataclass(frozen=True)
class _Table:
    """A table to write: the IDs of its rows, those of the context being the events', and its columns of the log."""

    side: Side
    ids: pl.DataFrame
    columns: list[pl.Series] = field(default_factory=list)

    def per_event(self, values: pl.Series, core: pl.DataFrame) -> pl.Series:
        """Return values [rows] by event."""
        if self.side == "context":
            return values
        key = f"{self.side}_id"
        rows = self.ids.select(key).with_columns(value=values)
        return core.select(key).join(rows, on=key, how="left", maintain_order="left")["value"]


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
    each row is an anonymous person's. `sample`: draw about this many rows if there are more. `time_format`: of
    strptime. `leave_out`: columns to ignore. `keep`: doubtful columns that are known before the impression. `decimal`:
    the mark of decimals, "." or ",". `encoding`: of text files. `position`: the column of the ad's position, or "none".
    Raises InitError, and writes nothing, if files are unreadable or hold what cannot be used; Doubt if an option would
    tell what the log leaves open.
    """
    check_out(out, (), "new dataset", InitError)
    found = Found(encoding)
    tables = _read(sources.given, found, decimal, {"leave-out": leave_out, "keep": keep})
    items, users = tables.pop("item", None), tables.pop("user", None)
    events, joined = join_log(tables, chosen, time_format)
    roles = find_roles(events, chosen, joined, in_order=in_order, no_user=no_user, time_format=time_format)
    core = read_core(events, roles)
    origin = ", ".join(path.name for path in sources.given.values())
    if sample and (drawn := draw_sample(core, sample)):
        kept, note = drawn
        core = core.filter(kept)
        events, origin = replace(events, frame=events.frame.filter(kept)), f"{origin}: {note}"
    # A column of an items' or users' table is written as that is.
    written = {name: table for table in (events, items, users) if table for name in table.frame.columns}
    own = _side("item", items, core, roles["item"]), _side("user", users, core, roles.get("user"))
    context, listed = _distribute(events, roles, core, own, written)
    shown, positions = Shown.of(core), find_positions(context.columns, core, position)
    guessed = [
        _judged(raw, table, core, shown, written[raw.name], positions, keep)
        for table in (*own, context)
        for raw in table.columns
    ]
    left_out = [Guess("none", "given by --leave-out", pl.Series(column), source=column) for column in leave_out]
    columns = [*listed, *left_out, *_named(guessed, keep)]
    has_users = users is not None or any(one.side == "user" and one.kind != "none" for one in columns)
    draft = Draft(
        name=re.sub(r"[^a-z0-9._-]+", "-", out.resolve().name.lower()).strip("._-")[:60] or "my-data",
        origin=origin,
        roles=roles,
        click_rate=float(shown.clicks.sum()) / max(1.0, float(shown.impressions.sum())),
        items=template_of("item", columns),
        users=template_of("user", columns) if has_users else None,
        columns=columns,
        notes=found.notes,
    )
    _write(out, draft, [*own, context] if has_users else [own[0], context])
    return draft, check_dataset(out)


def _read(
    files: Mapping[str, Path], found: Found, decimal: str | None, options: Mapping[str, Sequence[str]]
) -> dict[str, LogTable]:
    """Return the tables without the columns to leave out. Raises InitError if there is no such file, or one of the
    options names a column that no table has."""
    if missing := next((path for path in files.values() if not path.exists()), None):
        raise InitError(f"{missing}: there is no such file")
    tables = {kind: read_raw(path, found, decimal) for kind, path in files.items()}
    known = dict.fromkeys(column for table in tables.values() for column in table.frame.columns)
    for option, columns in options.items():
        if unknown := next((column for column in columns if column not in known), None):
            raise InitError(f"--{option} {unknown}: there is no such column; there are {', '.join(known)}")
    left = options["leave-out"]
    return {kind: replace(table, frame=table.frame.drop(left, strict=False)) for kind, table in tables.items()}


def _judged(
    raw: pl.Series,
    table: _Table,
    core: pl.DataFrame,
    shown: Shown,
    log: LogTable,
    positions: Mapping[str, str],
    keep: Collection[str],
) -> Guess:
    """Return what a column is taken for; one that only the outcome may tell is left out, with the evidence, unless a
    person keeps it. `positions`: columns of the context that are an ad's position, with the reason."""
    guessed = guess(raw, context=table.side == "context", log=log)
    guessed = replace(guessed, source=raw.name, side=table.side)
    if gone := log.gone.get(raw.name):
        guessed = replace(guessed, reason=f"{guessed.reason}; {gone}")
    if table.side == "context" and raw.name in positions:
        guessed = as_position(guessed, positions[raw.name])
    elif guessed.kind == "numeric":
        guessed = probed(guessed, table.per_event(guessed.values, core), shown, core["at"])
    if raw.name in keep or "serving_value" in guessed.options:
        return guessed
    if not guessed.is_feature:
        evidence = CALLED_AFTERWARDS if is_called_afterwards(raw.name) else None
    else:
        evidence = doubt(raw.name, table.per_event(guessed.values, core), shown)
        is_outcome = evidence and "only when clicked" in evidence and table.side == "context" and is_binary(raw, 2)
        if is_outcome and "conversion" not in core.columns:
            evidence = f"{evidence}; as a second outcome: --conversion {raw.name}"
    return replace(guessed, kind="none", reason=evidence, known="doubtful") if evidence else guessed


def _write(out: Path, draft: Draft, tables: Sequence[_Table]) -> None:
    """Write tables and dataset.toml into a temporary folder, which is renamed once it is complete."""
    files: dict[Side, str] = {"context": "events", "item": "items", "user": "users"}
    part = out.resolve().with_name(f".{out.resolve().name}.part")
    try:
        # Leftovers of a killed run.
        shutil.rmtree(part, ignore_errors=True)
        for table in tables:
            own = [column for column in draft.columns if column.side == table.side and column.kind != "none"]
            frame = table.ids.with_columns(_compact(column.values).alias(column.name) for column in own)
            write_parquet(part / f"{files[table.side]}.parquet", frame)
        write_text_atomic(part / CONFIG_FILE, draft_text(draft))
        part.replace(out)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise InitError(f"{out} cannot be written: {error.strerror}; name another folder") from None


def _side(side: Side, table: Table | None, core: pl.DataFrame, role: Role | None) -> _Table:
    key = f"{side}_id"
    if table is None:
        known = core.filter(~is_anonymous()) if side == "user" else core
        return _Table(side, known.select(pl.col(key).unique(maintain_order=True)))
    column = _key_column(side, table, core[key], role or Role(key, ""))
    ids = read_any_ids(table, column, unique=True)
    refuse(table)
    others, unlisted = table.frame.drop(column), core[key].unique(maintain_order=True)
    # If the table lists none of the events' IDs, the two write them differently, which the check says.
    if ids.is_in(unlisted.implode()).any():
        unlisted = unlisted.filter(~unlisted.is_in(ids.implode()))
        ids, others = pl.concat([ids, unlisted]), pl.concat([others, others.clear(unlisted.len())])
    return _Table(side, pl.DataFrame({key: ids}), list(others))


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
    sides: tuple[_Table, _Table],
    written: Mapping[str, LogTable],
) -> tuple[_Table, list[Guess]]:
    """Give each further column of the events to the item or user (`sides`) that determines it; return the context with
    the others, and the columns that a table of items or users has. A column of item IDs that are texts is the items',
    too."""
    item = roles["item"].column
    texts = [item] if guess(events.frame.get_column(item), log=written[item]).kind == "text" else []
    used = {role.column for role in roles.values()} - set(texts)
    owned = {column.name: side.side for side in sides for column in side.columns}
    context, listed = _Table("context", core), list[Guess]()
    for raw in events.frame.drop(used):
        if owner := owned.get(raw.name):
            reason = f"of the events: the table of {owner}s has it"
            listed.append(Guess("none", reason, raw, source=raw.name))
            continue
        side = sides[0] if raw.name in texts else _owner(raw, core, sides, written[raw.name])
        if side is None:
            context.columns.append(raw)
            continue
        key = f"{side.side}_id"
        rows = pl.DataFrame({"id": core[key], "value": raw}).drop_nulls().unique("id", keep="last")
        joined = side.ids.join(rows, left_on=key, right_on="id", how="left", maintain_order="left")
        side.columns.append(joined.get_column("value").alias(raw.name))
    return context, listed


def _owner(raw: pl.Series, core: pl.DataFrame, sides: tuple[_Table, _Table], log: LogTable) -> _Table | None:
    """Return the side with one value each of an events column; None for the context."""
    items, users = sides
    if depends(raw, core["item_id"]):
        return items
    # An anonymous person has no row that could hold a value.
    if not raw.filter(core.select(is_anonymous()).to_series()).count() and depends(raw, core["user_id"]):
        return users
    # If each row is a distinct item, repetition cannot show what belongs to the item.
    alone = core["item_id"].n_unique() > core.height / 2
    if alone and "impressions" in core.columns:
        return None if is_called_afterwards(raw.name) else items
    if guess(raw, log=log).kind != "text":
        return None
    values = pl.DataFrame({"key": core["item_id"], "value": raw}).drop_nulls()
    # A text of one event only may be of the moment.
    repeated = values.group_by("key").agg(pl.col("value").n_unique(), rows=pl.len()).filter(pl.col("rows") > 1)
    distinct = repeated["value"]
    return items if distinct.len() and (distinct == 1).sum() >= _MOSTLY * distinct.len() else None


def _named(guessed: Sequence[Guess], keep: Collection[str]) -> Iterator[Guess]:
    """Yield the columns, those that are written with a name: a feature's is its own among all, a text's in its
    table."""
    known = {"item": "yes, of the item", "user": "yes, of the user", "context": "assumed"}
    core = {"item": {"item_id"}, "user": {"user_id"}, "context": set(RESERVED_NAMES)}
    taken, features = {side: set(names) for side, names in core.items()}, set(RESERVED_NAMES)
    for one in guessed:
        if one.kind == "none":
            yield one
            continue
        used = taken[one.side] | (features if one.is_feature else set())
        clean = clean_name(one.source)
        names = [clean, f"{one.side}_{clean}", *(f"{clean}_{number}" for number in range(2, 1_000))]
        name = next(name for name in names if name not in used)
        taken[one.side].add(name)
        if one.is_feature:
            features.add(name)
        yield replace(one, name=name, known="given by --keep" if one.source in keep else known[one.side])


def _compact(values: pl.Series) -> pl.Series:
    """Write whole numbers without a fraction, so that a text says 24 and not 24.0."""
    if values.dtype == pl.Float64 and bool((values.drop_nulls() == values.drop_nulls().floor()).all()):
        return values.cast(pl.Int64, strict=False) if bool((values.drop_nulls().abs() < 2**53).all()) else values
    return values
