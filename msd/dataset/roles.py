"""Detection of the user, item, time and click columns of a raw log: by name, then by values. A name counts only if the
values confirm it.

Knows neither features nor how a dataset is written.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from msd.contract.errors import MsdError
from msd.dataset.column import time_unit
from msd.dataset.table import Table

RoleName = Literal["user", "item", "time", "label", "impressions", "clicks"]
NAMES: dict[RoleName, tuple[str, ...]] = {
    "user": tuple(
        "user_id userid user uid viewer_id visitor_id visitor customer_id customer member_id person_id reader_id "
        "account_id profile_id client_id cookie_id cookie device_id session_id".split()
    ),
    "item": tuple(
        "item_id itemid item iid ad_id adid ad creative_id creative banner_id product_id product article_id news_id "
        "movie_id movieid video_id content_id listing_id offer_id doc_id book_id song_id sku campaign_id".split()
    ),
    "time": tuple(
        "at timestamp ts time datetime date_time event_time event_timestamp impression_time served_at shown_at "
        "logged_at created_at unix_time date day".split()
    ),
    "label": tuple("label click clicked is_click is_clicked was_clicked clk y target liked".split()),
    "impressions": tuple("impressions imps n_impressions impression_count num_impressions shows exposures".split()),
    "clicks": tuple("clicks n_clicks click_count num_clicks clks".split()),
}
TITLES = re.compile(r"(^|_)(title|headline|name|copy|text|description|summary|subject|body)$")
WORDS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1, "no": 0, "yes": 1, "f": 0, "t": 1, "n": 0, "y": 1}
_NO_LABEL = re.compile(rf"(is|has|was)_|({'|'.join(NAMES['impressions'])})$")


class InitError(MsdError):
    """A dataset cannot be made from these files, or not in that folder."""


@dataclass(frozen=True)
class Role:
    """A column of the events and the reason for its role."""

    column: str
    reason: str


def clean_name(name: str) -> str:
    """Return a valid feature name: `Ad Copy (en)` → `ad_copy_en`, `userId` → `user_id`."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    clean = re.sub(r"[^a-z0-9]+", "_", apart).strip("_")[:60]
    return clean if re.match("[a-z]", clean) else f"c_{clean}".rstrip("_")


def find_roles(
    events: Table,
    chosen: Mapping[RoleName, str],
    *,
    in_order: bool,
    shared: Mapping[RoleName, Sequence[str]],
    no_user: bool = False,
) -> dict[RoleName, Role]:
    """Return the column of each role. The item is always present; the time is absent if the order of rows stands for
    it, and the user if users are unknown.

    `chosen`: columns named by a person. `shared`: by role, possible ID columns of a given user or item table. Raises
    InitError with the option to give if the columns do not tell.
    """
    roles: dict[RoleName, Role] = {}
    for role, column in chosen.items():
        if column not in events.frame.columns:
            known = ", ".join(events.frame.columns)
            raise InitError(f"--{role} {column}: {events.file} has no such column; it has {known}")
        if other := next((name for name, one in roles.items() if one.column == column), None):
            raise InitError(f"--{role} {column}: is also given by --{other}; a column has one role")
        roles[role] = Role(column, f"given by --{role}")
    no_user = no_user or ("user" not in roles and not shared.get("user") and _is_aggregated(events, roles))
    for role in ("user", "item"):
        if role not in roles and (found := _id_role(events, role, roles, shared.get(role, ()), no_user)):
            roles[role] = found
    if not in_order and "time" not in roles and (found := _time(events, roles)):
        roles["time"] = found
    _outcome(events, roles)
    return roles


def _is_aggregated(events: Table, taken: Mapping[RoleName, Role]) -> bool:
    """Return whether rows are aggregated over users."""
    if "impressions" in taken:
        return "label" not in taken
    free = _free(events, taken)
    return all(role in taken or _by_name(events, role, free, _is_count) for role in ("impressions", "clicks"))


def _id_role(
    events: Table, role: RoleName, taken: Mapping[RoleName, Role], shared: Sequence[str], no_user: bool
) -> Role | None:
    """Return the role of the user or item; None for the user if all rows are one user's. Raises InitError if no column
    fits."""
    free = _free(events, taken)
    if found := _by_name(events, role, free, lambda values: bool(values.null_count() < values.len())):
        return found
    if len(both := [column for column in shared if column in free]) == 1:
        return Role(both[0], f"the column that the table of {role}s also has")
    if role == "user" and no_user:
        return None
    option, what = f"--{role}", {"user": "who saw the ad", "item": "what was shown"}[role]
    other = NAMES["item" if role == "user" else "user"]
    named = [c for c in free if clean_name(c).endswith("_id") and clean_name(c) not in other]
    ids = [column for column in named if not events.frame.get_column(column).null_count()]
    if role == "item" and (headline := _headline(events, free, ids)):
        return Role(headline, "no column is an id of the item, so each distinct text is an item")
    if len(ids) == 1:
        return Role(ids[0], "the only other column whose name says id")
    advice = f"name it with {option} COLUMN"
    if role == "user":
        advice += "; if users are unknown, name a column that groups views, such as a site or a segment, "
        advice += "or give --no-user to treat all rows as one user's"
    raise InitError(f"{events.file}: no column name identifies the {role}, {what}; {advice}. {_columns(events)}")


def _headline(events: Table, free: Sequence[str], ids: Sequence[str]) -> str | None:
    """Return the first title column without missing values and with two or more words on average. Skip it if the only
    ID column has at least as many values: that ID then identifies the item with this title."""
    for column in free:
        values = events.frame.get_column(column)
        if TITLES.search(clean_name(column)) and values.dtype == pl.String and not values.null_count():
            is_called = len(ids) == 1 and events.frame.get_column(ids[0]).n_unique() >= values.n_unique()
            if not is_called and values.str.count_matches(r"\S+").sum() >= 2 * values.len():
                return column
    return None


def _time(events: Table, taken: Mapping[RoleName, Role]) -> Role | None:
    free = _free(events, taken)
    if found := _by_name(events, "time", free, lambda values: time_unit(values) is not None):
        return found
    fitting = [column for column in free if time_unit(events.frame.get_column(column)) is not None]
    if len(fitting) == 1:
        return Role(fitting[0], "the only column that holds times")
    if len(fitting) > 1:
        raise InitError(
            f"{events.file}: {', '.join(fitting)} all hold times; name the one of the impression with --time COLUMN"
        )
    if named := [column for column in free if clean_name(column) in NAMES["time"]]:
        value = events.frame.get_column(named[0]).drop_nulls().head(1).to_list()
        raise InitError(
            f"{events.file}, {named[0]}: {', '.join(map(repr, value))} is neither unix seconds since 1990 nor an "
            "ISO 8601 time such as 2024-05-01T12:30:00Z, though the column's name suggests a time; rewrite the column, "
            "name another with --time COLUMN, or give --no-time if the rows are in the order of time"
        )
    return None


def _outcome(events: Table, roles: dict[RoleName, Role]) -> None:
    """Find the outcome: both counts, or else a label."""
    free = _free(events, roles)
    if "label" not in roles:
        counts: dict[RoleName, Role] = {}
        for role in ("impressions", "clicks"):
            if found := roles.get(role) or _by_name(events, role, free, _is_count):
                counts[role] = found
        if len(counts) == 2:
            roles.update(counts)
            return
        if "clicks" in roles:
            raise InitError(f"--clicks {roles['clicks'].column}: name the column of impressions with --impressions too")
        roles["label"] = _label(events, free)
    elif "clicks" in roles:
        raise InitError("--label and --clicks both say what was clicked; give one of them")


def _label(events: Table, free: Sequence[str]) -> Role:
    if found := _by_name(events, "label", free, lambda values: is_binary(values, 1)):
        return found
    possible = [column for column in free if not _NO_LABEL.match(clean_name(column))]
    fitting = [column for column in possible if is_binary(events.frame.get_column(column), 2)]
    if len(fitting) == 1:
        return Role(fitting[0], "the only column of zeros and ones")
    if len(fitting) > 1:
        raise InitError(
            f"{events.file}: {', '.join(fitting)} all hold only zeros and ones; name the one that says whether it was "
            "clicked with --label COLUMN"
        )
    raise InitError(
        f"{events.file}: no column says whether it was clicked, 0 or 1. Name it with --label COLUMN; if all rows are "
        "clicks, add the impressions that were not clicked; if it is a rating, write 1 for those that mean yes. Counts "
        f"are named with --impressions and --clicks. {_columns(events)}"
    )


def _by_name(events: Table, role: RoleName, free: Sequence[str], fits: Callable[[pl.Series], bool]) -> Role | None:
    by_clean = {clean_name(column): column for column in reversed(free)}
    for name in NAMES[role]:
        if (column := by_clean.get(name)) and fits(events.frame.get_column(column)):
            return Role(column, f"its name says {role}")
    return None


def _free(events: Table, taken: Mapping[RoleName, Role]) -> list[str]:
    used = {role.column for role in taken.values()}
    return [column for column in events.frame.columns if column not in used]


def _columns(events: Table) -> str:
    columns = events.frame.columns
    values = [column for column in columns if re.fullmatch(r"-?[0-9.]+", column)]
    hint = f" ({', '.join(values)}: is the header row missing?)" if values else ""
    return f"Its columns are {', '.join(columns)}{hint}"


def is_binary(values: pl.Series, distinct: int) -> bool:
    """Return whether all values are zeros and ones, or words for them, with at least `distinct` of them."""
    if values.dtype.is_nested() or values.dtype.is_temporal():
        return False
    found = {WORDS.get(text.strip().lower()) for text in values.drop_nulls().unique().cast(pl.String).to_list()}
    return None not in found and len(found) >= distinct


def _is_count(values: pl.Series) -> bool:
    if values.dtype.is_nested() or values.dtype.is_temporal():
        return False
    # Negative counts are reported later, with their row.
    numbers = values.cast(pl.Float64, strict=False)
    return numbers.null_count() < numbers.len()
