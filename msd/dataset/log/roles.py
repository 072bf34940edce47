"""Detection of the user, item, time and click columns of a raw log: by name, then by values. A name counts only if the
values confirm it.

Knows neither features nor how a dataset is written.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from msd.dataset.column import sample_of, time_forms
from msd.dataset.config import clean_name
from msd.dataset.problem import Doubt, InitError
from msd.dataset.table import Table

RoleName = Literal[
    "user", "item", "time", "label", "impressions", "clicks", "conversion", "converted_at", "kind", "request"
]
NAMES: dict[RoleName, tuple[str, ...]] = {
    "user": tuple(
        "user_id userid user uid viewer_id visitor_id visitor customer_id customer member_id person_id reader_id "
        "reviewer_id account_id profile_id client_id cookie_id cookie device_id ifa session_id kunde kunden_id nutzer "
        "nutzer_id besucher besucher_id".split()
    ),
    "item": tuple(
        "item_id itemid item iid ad_id adid ad creative_id creative banner_id product_id product article_id news_id "
        "movie_id movieid video_id content_id listing_id offer_id doc_id book_id song_id sku asin parent_asin isbn "
        "anzeige anzeigen_id artikel artikel_id produkt produkt_id campaign_id campaign".split()
    ),
    "time": tuple(
        "at timestamp ts time datetime date_time event_time event_timestamp impression_time request_time served_at "
        "shown_at logged_at created_at unix_time unix_review_time date day event_date hour dt zeit zeitpunkt "
        "datum".split()
    ),
    "label": tuple("label click clicked is_click is_clicked was_clicked clk y target liked klick geklickt".split()),
    "impressions": tuple(
        "impressions imps impr n_impressions impression_count num_impressions shows exposures impressionen "
        "einblendungen".split()
    ),
    "clicks": tuple("clicks n_clicks click_count num_clicks clks klicks".split()),
    "request": tuple(
        "request_id req_id impression_id imp_id auction_id bid_id bid_request_id query_id event_id id".split()
    ),
}
TITLES = re.compile(r"(^|_)(title|headline|name|copy|text|description|summary|subject|body)$")
NAMING = re.compile(r"(^|_)(title|headline|name|copy)$")
_NO_WORDS = "0 0.0 0,0 false f no n nein falsch non não nao impression impressed view shown".split()
_YES_WORDS = "1 1.0 1,0 true t yes y ja j wahr oui si sí sim click clicked".split()
_NOT_CLICKED = ("not clicked", "not_clicked", "no click", "no_click")
WORDS = dict.fromkeys((*_NO_WORDS, *_NOT_CLICKED), 0) | dict.fromkeys(_YES_WORDS, 1)
_SIGNS = {"-1": 0, "-1.0": 0, "1": 1, "1.0": 1, "+1": 1}
_WITHOUT_ID: dict[RoleName, tuple[str, str]] = {
    "user": (
        "who saw the ad",
        "; if users are unknown, --no-user takes each row for an anonymous person of its own",
    ),
    "item": ("what was shown", ""),
}
_WITHOUT_LABEL = (
    "if all rows are clicks, add the impressions that were not clicked; if it is a rating, write 1 for those that mean "
    "yes. Counts are named with --impressions and --clicks, rows of impressions and clicks with --kind"
)
_FEWEST_ROWS = 2  # of an item, on average
_MOST_HOURS = 31  # or days: fewer values are no times
_MOST_NAMED = 5


@dataclass(frozen=True)
class Role:
    """A column of the events, the reason for its role, and the form of a time."""

    column: str
    reason: str
    form: str | None = None


def find_roles(
    events: Table,
    chosen: Mapping[RoleName, str],
    joined: Mapping[RoleName, Role],
    *,
    in_order: bool,
    no_user: bool = False,
    time_format: str | None = None,
) -> dict[RoleName, Role]:
    """Return the column of each role. The item is always present; the time is absent if the order of rows stands for
    it, and the user if each row is an anonymous person's.

    `chosen`: columns named by a person. `joined`: roles of outcomes that were joined to the events. Raises InitError
    with the option to give if the columns do not tell.
    """
    roles = chosen_roles(events, {role: chosen[role] for role in chosen if role not in ("kind", "request")})
    roles.update(joined)
    columns = ", ".join(events.frame.columns)
    for role, advice in _WITHOUT_ID.items():
        if role in roles or (role == "user" and no_user):
            continue
        found = find_id(events, role, roles)
        if found is None:
            question = f"{events.file}: no column name identifies the {role}, {advice[0]}, among {columns}"
            raise Doubt(question, role, dict.fromkeys(_repeated(events, roles), ""), advice[1])
        roles[role] = found
    if not in_order and (time := find_time(events, roles, time_format)):
        roles["time"] = time
    return roles | _outcome(events, roles)


def chosen_roles(events: Table, chosen: Mapping[RoleName, str]) -> dict[RoleName, Role]:
    """Return the roles that a person named. Raises InitError for unknown columns and for two roles of a column."""
    roles: dict[RoleName, Role] = {}
    for role, column in chosen.items():
        option = f"--{role.replace('_', '-')}"
        if column not in events.frame.columns:
            known = ", ".join(events.frame.columns)
            raise InitError(f"{option} {column}: {events.file} has no such column; it has {known}")
        if other := next((name for name, named in roles.items() if named.column == column), None):
            raise InitError(f"{option} {column}: is also given by --{other}; a column has one role")
        roles[role] = Role(column, f"given by {option}")
    return roles


def find_id(events: Table, role: RoleName, taken: Mapping[RoleName, Role]) -> Role | None:
    """Return the free column whose name says that it identifies a user, item or request."""
    return _by_name(events, role, _free(events, taken), lambda values: bool(values.null_count() < values.len()))


def _repeated(events: Table, taken: Mapping[RoleName, Role]) -> list[str]:
    """Return the columns whose values could be items' or users', most values first: each has several rows, and a name
    that says nothing else."""
    free = events.frame.select(_free(events, taken))
    flat = [column for column in free if not column.dtype.is_nested() and not column.null_count()]
    counts = {column.name: column.n_unique() for column in flat if not column.dtype.is_float()}
    fitting = [name for name, count in counts.items() if 2 < count <= events.frame.height / _FEWEST_ROWS]
    fitting = [name for name in fitting if not any(clean_name(name) in names for names in NAMES.values())]
    return sorted(fitting, key=lambda name: -counts[name])[:_MOST_NAMED]


def find_time(events: Table, taken: Mapping[RoleName, Role], form: str | None = None) -> Role | None:
    """Return the role of the time, with its form; None if no column holds times. Raises Doubt if other columns than
    those called a time hold times, or several forms are possible; InitError if a column called a time holds none."""
    if named := taken.get("time"):
        return _formed(events, named, form)
    free = _free(events, taken)
    forms = {column: time_forms(events.frame.get_column(column), form) for column in free}
    if found := _by_name(events, "time", free, lambda values: bool(forms[values.name])):
        return _formed(events, found, form)
    if named := _by_name(events, "time", free, lambda values: values.n_unique() > _MOST_HOURS):
        fault = _no_times(events.frame.get_column(named.column), form)
        raise InitError(
            f"{events.file}, {named.column}: {fault}, though the column's name suggests a time; say how "
            'it is written, as --time-format "%d.%m.%Y %H:%M", rewrite the column, name another with --time COLUMN, or '
            "give --no-time if the rows are in the order of time"
        )
    if fitting := [column for column in free if forms[column]]:
        told = f"{events.file}: no name says which column is the impression's time, and these hold times"
        choices, order = dict.fromkeys(fitting, ""), ", or --no-time if the rows are in the order of time"
        raise Doubt(f"{told}: {', '.join(fitting)}", "time", choices, order)
    if form:
        raise InitError(f"--time-format {form}: no column of {events.file} holds times of this form")
    return None


def _no_times(values: pl.Series, form: str | None) -> str:
    """Return why values are no times: one has no form of a time, or none in common with the first."""
    shown = sample_of(values).alias("time")
    forms = (set(time_forms(shown[place : place + 1], form)) for place in range(shown.len()))
    first = set(time_forms(shown[:1], form))
    place, own = next((found for found in enumerate(forms) if not found[1] & first), (-1, first))
    if own:
        return f"{shown[0]!r} and {shown[place]!r} are written in different forms"
    known = "neither unix seconds since 1990 nor an ISO 8601 time such as 2024-05-01T12:30:00Z"
    return f"{shown[place]!r} is {f'not a time of the form {form}' if form else known}"


def _formed(events: Table, role: Role, form: str | None) -> Role:
    values = events.frame.get_column(role.column)
    forms = time_forms(values.alias("time"), form) or [form or "s"]
    if len(forms) > 1:
        raise Doubt(
            f"{events.file}, {role.column}: {values.drop_nulls()[0]!r} can be read as {' or '.join(forms)}",
            "time_format",
            dict.fromkeys(forms, ""),
        )
    written = f", written as {forms[0]}" if "%" in forms[0] else ""
    return Role(role.column, role.reason + written, forms[0])


def _outcome(events: Table, roles: Mapping[RoleName, Role]) -> dict[RoleName, Role]:
    """Return the roles of the outcome: of both counts, or else of a label."""
    if "label" in roles:
        if "clicks" in roles:
            raise InitError("--label and --clicks both say what was clicked; give one of them")
        return {}
    free, names = _free(events, roles), list[RoleName](("impressions", "clicks"))
    counts = {role: roles.get(role) or _by_name(events, role, free, _is_count) for role in names}
    found = {role: column for role, column in counts.items() if column}
    if len(found) == len(names):
        return found
    if "clicks" in roles:
        raise InitError(f"--clicks {roles['clicks'].column}: name the column of impressions with --impressions too")
    return {"label": _label(events, free)}


def _label(events: Table, free: Sequence[str]) -> Role:
    if found := _by_name(events, "label", free, lambda values: is_binary(values, 1)):
        return found
    for column in free:
        if clean_name(column) in NAMES["label"]:
            texts = events.frame.get_column(column).cast(pl.String, strict=False)
            odd = texts.is_not_null() & ~texts.str.to_lowercase().is_in(list(WORDS))
            shown = ", ".join(sorted(set(texts.drop_nulls().head(1_000)))[:4]) or "nothing"
            if odd.any() and texts.filter(odd).n_unique() < 3:
                shown = f"{texts.filter(odd)[0]} in row {odd.arg_true()[0] + 1}"
            raise InitError(f"{events.file}, {column}: holds {shown}, not 0 or 1, or no or yes; {_WITHOUT_LABEL}")
    fitting = [column for column in free if is_binary(events.frame.get_column(column), 2)]
    question = f"{events.file}: no column says whether it was clicked, 0 or 1, among {', '.join(events.frame.columns)}"
    raise Doubt(question, "label", dict.fromkeys(fitting, ""), f"; {_WITHOUT_LABEL}")


def _by_name(events: Table, role: RoleName, free: Sequence[str], fits: Callable[[pl.Series], bool]) -> Role | None:
    by_clean = {clean_name(column): column for column in reversed(free)}
    # The last part of a nested name counts, too, if it says more than that it is an ID.
    parts = {clean_name(column.rpartition(".")[2]): column for column in reversed(free) if "." in column}
    by_clean = {name: column for name, column in parts.items() if name not in ("id", "date", "name")} | by_clean
    for name in NAMES[role]:
        if (column := by_clean.get(name)) and fits(events.frame.get_column(column)):
            return Role(column, f"its name says {role}")
    return None


def _free(events: Table, taken: Mapping[RoleName, Role]) -> list[str]:
    used = {role.column for role in taken.values()}
    return [column for column in events.frame.columns if column not in used]


def depends(raw: pl.Series, key: pl.Series) -> bool:
    """Return whether each key has only one value, in enough rows to exclude chance."""
    if isinstance(raw.dtype, pl.List) and not raw.dtype.inner.is_nested():
        raw = raw.list.eval(pl.element().cast(pl.String)).list.join("\x1f")
    if raw.dtype.is_nested() or raw.drop_nulls().n_unique() < 2:
        return False
    pairs = pl.DataFrame({"key": key, "value": raw}).drop_nulls()
    keys = pairs["key"].n_unique()
    return pairs.height >= 2 * keys and pairs.n_unique() == keys


def is_binary(values: pl.Series, distinct: int) -> bool:
    """Return whether all values are zeros and ones, or words for them, with at least `distinct` of them."""
    if values.dtype.is_nested() or values.dtype.is_temporal():
        return False
    texts = {text.strip().lower() for text in values.drop_nulls().unique().cast(pl.String).to_list()}
    words = label_words(texts)
    found = {words.get(text) for text in texts}
    return None not in found and len(found) >= distinct


def label_words(texts: Collection[str]) -> Mapping[str, int]:
    """Return what a column's words mean, 0 or 1; beside 1 alone, -1 means 0."""
    return _SIGNS if _SIGNS.keys() >= set(texts) and any(text.startswith("-") for text in texts) else WORDS


def _is_count(values: pl.Series) -> bool:
    if values.dtype.is_nested() or values.dtype.is_temporal():
        return False
    # Negative counts are reported later, with their row.
    numbers = values.cast(pl.Float64, strict=False)
    return numbers.null_count() < numbers.len()
