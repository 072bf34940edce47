"""Notes on gaps of a valid dataset, not problems: no texts, hardly any clicks, a split against time; and on label
leakage and sampled negatives, which inflate offline figures.
"""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain

import polars as pl

from msd.dataset.afterwards import Shown, doubt
from msd.dataset.aggregate import count_clicks, is_counted
from msd.dataset.column import EARLIEST, is_anonymous
from msd.dataset.load import Dataset
from msd.dataset.split import Part

_DAY_S = 86_400
_FEWEST_TEXTS = 10
_FEW_ROWS, _FEW_CLICKS = 1_000, 50
_FEWEST_GROUPS = 20
_NEARLY_ALL = 0.95
_LARGE_SHARE = 0.3


def outlook(dataset: Dataset, parts: pl.Series) -> list[str]:
    """Return notes on the effect on later steps; `parts` is the Part of each event."""
    notes = (
        _of_split(dataset),
        _of_features(dataset),
        _of_negatives(dataset.events),
        _of_texts(dataset),
        _of_users(dataset, parts),
        _of_time(dataset),
        _of_clicks(dataset, parts),
        _of_order(dataset, parts),
        _of_pairs(dataset, parts),
    )
    return list(chain.from_iterable(notes))


def _of_split(dataset: Dataset) -> Iterator[str]:
    """Note what the log looks like, and what that decides."""
    events, by_user = dataset.events, dataset.config.split.by == "user"
    if dataset.config.split.column is not None:
        return
    once = events.group_by("user_id").len().filter(pl.col("len") == 1).height / events.height
    last = events[int(0.9 * events.height) :]
    fresh = last.join(events[: events.height - last.height], on="item_id", how="anti").height / max(1, last.height)
    looks = (
        f"{once:.0%} of the rows are of users seen once, {fresh:.0%} of the last tenth's show items first seen there"
    )
    if by_user and once > _LARGE_SHARE:
        yield f'{looks}: cuts of each user\'s events train on few rows; take `by = "user"` out of [split]'
    elif by_user:
        yield f"{looks}; each user's own events are cut, so test rows are later than train rows within a user alone"
    else:
        told = "histories and users' counts tell little of them" if once > _LARGE_SHARE else "histories can tell much"
        yield f"{looks}: the log is cut in time at its own events, and {told}"


def _of_texts(dataset: Dataset) -> Iterator[str]:
    texts, items = dataset.items["text"].drop_nulls(), dataset.items.height
    count = int((texts.str.strip_chars() != "").sum())
    if count < _FEWEST_TEXTS:
        yield (
            f"{count} items have a text, but the student needs {_FEWEST_TEXTS}, so `msd distill` will fail. Train "
            "without it: `msd train DATASET OUT --no-semantics`. "
            f"Or add columns to {dataset.config.items.file} that describe an item, such as its "
            'category or brand, and name them in the template of [items]: text = "{brand}, {category}"'
        )
    elif count < items / 2:
        yield f"{items - count} of {items} items have no text, hence no vector"


def _of_users(dataset: Dataset, parts: pl.Series) -> Iterator[str]:
    """Note that all events are one user's, or many are, as where an ID stands for unknown users; and that of users only
    clicks are known."""
    events = dataset.events
    user, count = events["user_id"].value_counts(sort=True).row(0)
    if max(_FEW_CLICKS, _LARGE_SHARE * events.height) <= count < events.height:
        yield (
            f"{count / events.height:.0%} of the events are of one user, {user}: if that stands for unknown users, "
            "their clicks become one history; name another column of users"
        )
    named = events.filter(~is_anonymous())["user_id"].n_unique()
    if not named or dataset.users["text"].null_count() < dataset.users.height:
        return
    if count == events.height:
        yield "all events are one user's: parts are cut in time alone, and a history is everybody's latest clicks"
        return
    clicked = events.filter((parts == Part.WINDOW) & (pl.col("label") == 1) & ~is_anonymous())
    known = clicked["user_id"].n_unique()
    yield (
        f"only clicks are known of users: {known} of {named} users have one in the profile "
        "window, and only they get a text and a vector"
    )


def _of_time(dataset: Dataset) -> Iterator[str]:
    at = dataset.events["at"]
    if at[-1] < EARLIEST:
        yield "there are no times: the order of the rows stands for them, and requests need no `at`"
        return
    if late := int((at > time.time() + _DAY_S).sum()):
        latest = datetime.fromtimestamp(at[-1], UTC).date()
        effect = "live events from before then hardly count: correct or remove them"
        yield f"{late} events lie in the future, the last on {latest}, and {effect}"
    if at[0] == at[-1]:
        yield "all events have one time: parts are cut by item, and no event knows of an earlier one"


def _of_clicks(dataset: Dataset, parts: pl.Series) -> Iterator[str]:
    cuts = {"train": parts <= Part.TRAIN, "valid": parts == Part.VALID, "test": parts == Part.TEST}
    uses = {"train": "train on", "valid": "choose an epoch and calibrate by", "test": "measure a model on"}
    for name, rows in cuts.items():
        shown, clicks = count_clicks(dataset.events.filter(rows))
        if clicks in (0, shown):
            what = "no click" if clicks == 0 else "only clicks"
            effect = ", and `msd train` will fail" if name == "valid" else ""
            yield (
                f"the {name} part has {what} in {shown} events, so there is nothing to {uses[name]}{effect}: "
                "bring more events, or move the cuts in [split]"
            )
        elif clicks < _FEW_CLICKS or shown < _FEW_ROWS:
            yield (
                f"the {name} part has only {clicks} click{'s' * (clicks > 1)} in {shown} events to {uses[name]}: "
                "figures will differ by chance between seeds, so compare several"
            )


def _of_order(dataset: Dataset, parts: pl.Series) -> Iterator[str]:
    """Note test events before training events, which only a given split can have."""
    if dataset.config.split.column is None:
        return
    events = dataset.events.select("user_id", "at", part=parts)
    learned = events.filter(pl.col("part") <= Part.TRAIN).group_by("user_id").agg(until=pl.col("at").max())
    test = events.filter(pl.col("part") == Part.TEST).join(learned, on="user_id")
    if early := test.filter(pl.col("at") < pl.col("until")).height:
        yield (
            f"{early} test events lie before a window or train event of the same user: the model learns from "
            f"what came later. If test should represent the future, change {dataset.config.split.column} in "
            f"{dataset.config.events.file}"
        )


def _of_pairs(dataset: Dataset, parts: pl.Series) -> Iterator[str]:
    """Note a GAUC without information: if a user's clicked and other impressions are the same item, every model
    ties."""
    inputs = [feature.name for feature in dataset.config.side("context")]
    test = dataset.events.filter(parts == Part.TEST)
    both = test.filter(pl.col("label").n_unique().over("user_id") > 1)
    if both.is_empty():
        yield "no user has both a click and an event without one in the test part: GAUC cannot be measured"
    elif both.group_by("user_id").agg(one=pl.struct("item_id", "at", *inputs).n_unique())["one"].max() == 1:
        yield "each user of the test part has seen one thing only, clicked or not: GAUC will be .5 for every model"


def _of_features(dataset: Dataset) -> Iterator[str]:
    tables, shown = {"user": dataset.users, "item": dataset.items}, Shown.of(dataset.events)
    for feature in dataset.config.features:
        if feature.serving_value is not None:
            continue
        values = dataset.events
        if (table := tables.get(feature.side)) is not None:
            key = f"{feature.side}_id"
            values = values.select(key).join(table, on=key, how="left", maintain_order="left")
        if evidence := doubt(feature.source, values[feature.name], shown):
            yield (
                f"the {feature.side} feature {feature.name} (column {feature.source}) may be known only after the "
                f"impression: {evidence}. Then no request can bring it, and figures are too good: take it out of "
                "[[features]]"
            )


def _of_negatives(events: pl.DataFrame) -> Iterator[str]:
    """Note a log with nearly all events in moments of several impressions to a user, and nearly always one click in
    such a moment: no real log looks like this."""
    if is_counted(events):
        return
    moments = events.group_by("user_id", "at").agg(shown=pl.len(), clicks=pl.col("label").cast(pl.Int64).sum())
    groups = moments.filter(pl.col("shown") > 1)
    shown, clicks = int(groups["shown"].sum()), int(groups["clicks"].sum())
    one_click = int((groups["clicks"] == 1).sum()) / max(1, groups.height)
    if groups.height >= _FEWEST_GROUPS and shown >= _NEARLY_ALL * events.height and one_click >= _NEARLY_ALL:
        yield (
            f"{one_click:.0%} of the moments hold exactly one click beside {(shown - clicks) / groups.height:.1f} "
            "events without one: it looks as if those had been sampled beside their click. A model then learns how "
            "they were drawn (how often an item occurs among them) and gains what it will not gain online; bring "
            "impressions that were really shown"
        )
