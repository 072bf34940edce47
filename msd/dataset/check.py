"""Report on a dataset: problems, and counts that show what a model can learn from it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from msd.dataset.aggregate import count_clicks, is_counted
from msd.dataset.column import EARLIEST, is_anonymous
from msd.dataset.conversions import count_conversions, say_delays
from msd.dataset.load import Dataset, inspect_dataset
from msd.dataset.outlook import outlook
from msd.dataset.problem import DatasetError, Problem
from msd.dataset.split import Part, split_events

_MANY_REPEATED = 0.2
Count = int | float | str | None


@dataclass(frozen=True)
class DatasetReport:
    """Problems make a dataset unusable; counts (of valid rows) and notes (effects of missing data) do not. The name is
    None if nothing was read."""

    name: str | None
    problems: tuple[Problem, ...]
    counts: dict[str, Count]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """Return {"name", "ok", "problems": [{"file", "row", "column", "message"}, …], "counts": {name: value},
        "notes"}."""
        keys = ("file", "row", "column", "message")
        problems = [{key: getattr(problem, key) for key in keys} for problem in self.problems]
        report = {"name": self.name, "ok": not problems, "problems": problems, "counts": self.counts}
        return {**report, "notes": list(self.notes)}


def check_dataset(folder: Path) -> DatasetReport:
    """Check a dataset; never raises for problems in it."""
    try:
        dataset, problems = inspect_dataset(folder)
    except DatasetError as error:
        return DatasetReport(None, error.problems, {})
    if dataset is None:
        return DatasetReport(None, tuple(problems), {})
    counts = _counts(dataset)
    if problems and dataset.events.is_empty():
        return DatasetReport(dataset.config.name, tuple(problems), counts)
    try:
        parts = pl.Series("part", split_events(dataset.events, dataset.config))
    except DatasetError as error:
        problems += error.problems
        return DatasetReport(dataset.config.name, tuple(problems), counts)
    labels, where = dataset.events["label"], dataset.config.events
    if labels.n_unique() == 1:
        message = (
            f"all {labels.len()} events {'are clicks' if labels[0] else 'have no click'}: there is nothing to learn"
        )
        problems.append(Problem(where.file, message, column=where.clicks or where.label))
    counts |= _part_counts(dataset, dataset.events.with_columns(parts))
    repeats = _of_repeats(dataset.events, counts["repeated_events"])
    notes = (*outlook(dataset, parts), *_of_missing(dataset), *repeats, *say_delays(dataset.events))
    return DatasetReport(dataset.config.name, tuple(problems), counts, notes)


def _of_repeats(events: pl.DataFrame, repeated: Count) -> list[str]:
    if is_counted(events) or not isinstance(repeated, int) or repeated < _MANY_REPEATED * events.height:
        return []
    return [
        f"{repeated} events repeat an earlier one's user, item and time: if the log has rows twice, they count twice"
    ]


def _of_missing(dataset: Dataset) -> list[str]:
    missing = [name for name, column in _columns(dataset).items() if column.null_count() == column.len()]
    return [f"{name} is missing in every row: name another column or path, or leave it out" for name in missing]


def _columns(dataset: Dataset) -> dict[str, pl.Series]:
    """Return the columns of the features by name."""
    tables = {"user": dataset.users, "item": dataset.items, "context": dataset.events}
    return {feature.name: tables[feature.side][feature.name] for feature in dataset.config.features}


def _counts(dataset: Dataset) -> dict[str, Count]:
    events, items, users = dataset.events, dataset.items, dataset.users
    known = events.lazy().filter(~is_anonymous()).select("user_id").collect(engine="streaming")
    keys = ["user_id", "item_id", "at", *(["label"] if is_counted(events) else [])]
    distinct = events.select(keys).n_unique()
    counts: dict[str, Count] = {
        "events": events.height,
        "items": items.height,
        "users": users.height if dataset.config.users else None,
        "users_with_events": known["user_id"].n_unique(),
        "anonymous_events": (events.height - known.height) or None,
        "impressions": count_clicks(events)[0] if is_counted(events) else None,
        "clicks": count_clicks(events)[1],
        "click_rate": _rate(events),
        **count_conversions(events),
        "first_event": _day(events["at"].min()),
        "last_event": _day(events["at"].max()),
        "events_of_unknown_items": _unknown(events, items, "item_id"),
        "events_of_unknown_users": _unknown(events, users, "user_id") if dataset.config.users else None,
        "repeated_events": events.height - distinct,
        "items_without_text": items["text"].null_count(),
        "items_without_title": items["title"].null_count() if dataset.config.items.title else None,
        "users_without_text": users["text"].null_count() if dataset.config.users else None,
        **dataset.bid_requests,
    }
    return counts | {f"missing_{name}": column.null_count() for name, column in _columns(dataset).items()}


def _part_counts(dataset: Dataset, events: pl.DataFrame) -> dict[str, Count]:
    counts: dict[str, Count] = {}
    for part in Part:
        rows = events.filter(pl.col("part") == part)
        counts[f"{part.name.lower()}_events"] = rows.height
        counts[f"{part.name.lower()}_click_rate"] = _rate(rows)
    test = events.filter(pl.col("part") == Part.TEST)
    known = events.filter(pl.col("part").is_in([Part.WINDOW, Part.TRAIN]))
    for column in ("item_id", "user_id"):
        seen = test.join(known.group_by(column).len(), on=column, how="left")["len"].fill_null(0)
        name = f"test_events_of_{{}}_{column.removesuffix('_id')}s"
        counts[name.format("cold")] = int((seen == 0).sum())
        counts[name.format("rare")] = int(((seen > 0) & (seen < dataset.config.ids.min_count)).sum())
    return counts


def _unknown(events: pl.DataFrame, table: pl.DataFrame, column: str) -> int:
    return events.join(table, on=column, how="anti").height


def _rate(events: pl.DataFrame) -> float | None:
    shown, clicks = count_clicks(events)
    return round(clicks / shown, 6) if shown else None


def _day(at: object) -> str | None:
    """Return a time in ISO 8601; None for numbers that are not times, such as row numbers."""
    return datetime.fromtimestamp(at, UTC).isoformat() if isinstance(at, int) and at >= EARLIEST else None
