"""Texts for student and teacher: an item's text, and a user's with likes of the profile window only."""

import polars as pl

from msd.dataset.column import is_anonymous
from msd.dataset.load import Dataset
from msd.dataset.order import id_order
from msd.dataset.split import Part, split_events

_LIKES = 30
_DISLIKES = 8


def student_texts(dataset: Dataset) -> tuple[dict[str, str], dict[str, str]]:
    """Return texts by item ID and by user ID; IDs without text are left out.

    A user's text is that of the users table, then the titles of up to 30 items clicked in the profile window, newest
    first. It contains nothing from after the window.
    """
    items = dataset.items.drop_nulls("text")
    item_texts: dict[str, str] = dict(items.select("item_id", "text").iter_rows())
    users: dict[str, str] = dict(dataset.users.drop_nulls("text").select("user_id", "text").iter_rows())
    liked = _titles(dataset, pl.col("label") == 1, _LIKES)
    ids = dict.fromkeys([*dataset.users["user_id"].to_list(), *liked])
    likes = {user: f"Liked: {'; '.join(titles)}." for user, titles in liked.items()}
    texts = {user: " ".join(filter(None, (users.get(user), likes.get(user)))) for user in ids}
    return item_texts, {user: text for user, text in texts.items() if text}


def teacher_texts(dataset: Dataset) -> tuple[dict[str, str], dict[str, str]]:
    """Return the student's texts; a user's also has up to 8 titles disliked in the window, if known.

    The student does not read the disliked titles: it learns from what the teacher makes of them.
    """
    items, users = student_texts(dataset)
    if "disliked" in dataset.events.columns:
        disliked = _titles(dataset, (pl.col("label") == 0) & (pl.col("disliked") == 1), _DISLIKES)
        for user, titles in disliked.items():
            users[user] = " ".join([*([users[user]] if user in users else []), f"Disliked: {'; '.join(titles)}."])
    return items, users


def _titles(dataset: Dataset, which: pl.Expr, most: int) -> dict[str, list[str]]:
    """Return the titles (otherwise texts) of each user's matching items within the window, newest first."""
    parts = pl.Series("part", split_events(dataset.events, dataset.config))
    titles = dataset.items.select("item_id", title=pl.coalesce("title", "text")).drop_nulls("title")
    found = (
        dataset.events.filter(parts == Part.WINDOW)
        .filter(which, ~is_anonymous())
        .join(titles, on="item_id", how="inner", maintain_order="left")
        .sort("at", *id_order("item_id"), maintain_order=True)
        .reverse()
        .unique(["user_id", "item_id"], keep="first", maintain_order=True)
        .group_by("user_id", maintain_order=True)
        .agg(pl.col("title").head(most))
    )
    return dict(found.iter_rows())
