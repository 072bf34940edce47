"""One real user's ranking with and without semantics, with titles, the teacher's words, and the user's clicks."""

import json
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from msd.dataset.load import Dataset
from msd.dataset.split import Part, split_events
from msd.demo.service import DemoError, score

_CANDIDATES = 200
_TOP = 10
_FEWEST_EVENTS, _FEWEST_CLICKS = 15, 5
_WORDS = 110


class RankedCandidate(NamedTuple):
    """One ranked candidate; `rank_without` and `pctr_without` are those of the model without semantics."""

    rank: int
    item_id: str
    title: str
    pctr: float
    rank_without: int
    pctr_without: float
    teacher: str
    did: str


class Showcase(NamedTuple):
    """A user, the request, the number of candidates scored, and the top candidates."""

    user_id: str
    request: dict[str, Any]
    candidates: int
    top: list[RankedCandidate]


def show_user(dataset: Dataset, bundle: Path, url: str, url_without: str) -> Showcase:
    """Score a user's test items, among random other items, with both services."""
    events = dataset.events.with_columns(part=pl.Series(split_events(dataset.events, dataset.config)))
    user_id = _choose_user(events)
    test = events.filter((pl.col("user_id") == user_id) & (pl.col("part") == Part.TEST))
    did = {item: "clicked" if label else "not clicked" for item, label in test.select("item_id", "label").iter_rows()}
    seen = set(events.filter(pl.col("user_id") == user_id)["item_id"])
    others = [item for item in dataset.items["item_id"] if item not in seen]
    fill = np.random.default_rng(0).permutation(others)[: max(0, _CANDIDATES - len(did))].tolist()
    first, ids = test.row(0, named=True), [*did, *fill]
    context = {feature.name: first[feature.name] for feature in dataset.config.side("context")}
    about_user = {"user_id": user_id, "at": first["at"], "context": context}
    request = {**about_user, "candidates": {"id": ids}, "top_k": len(ids)}
    ranked, without = (score(address, request)["candidates"] for address in (url, url_without))
    rank_without = {item: rank for rank, item in enumerate(without["id"], start=1)}
    pctr_without = dict(zip(without["id"], without["pctr"], strict=True))
    words = _words(bundle)
    top = []
    for rank, (item, pctr) in enumerate(zip(ranked["id"][:_TOP], ranked["pctr"], strict=False), start=1):
        about = words.get(item, {})
        inferred = "" if about.get("known", True) else "(not recognised, inferred) "
        teacher = f"{inferred}{about.get('implicit', '')}"
        ranks = rank_without[item], pctr_without[item]
        top.append(RankedCandidate(rank, item, about.get("title") or item, pctr, *ranks, teacher, did.get(item, "")))
    return Showcase(user_id, request, len(ranked["id"]), top)


def print_showcase(console: Console, shown: Showcase) -> None:
    """Print the top candidates as a table."""
    title = f"User {shown.user_id}: the best {len(shown.top)} of {shown.candidates} candidates"
    table = Table(title=title, title_justify="left", show_lines=True)
    for name in ("#", "title", "pCTR", "without semantics", "what the teacher says of it", "and the user"):
        table.add_column(name)
    for place in shown.top:
        table.add_row(
            str(place.rank),
            Text(place.title),
            f"{place.pctr:.3f}",
            f"#{place.rank_without}, {place.pctr_without:.3f}",
            Text(textwrap.shorten(place.teacher, _WORDS, placeholder=" …")),
            place.did,
        )
    console.print(table)


def _choose_user(events: pl.DataFrame) -> str:
    """Return the first user, by order of events, with enough test rows of both labels. Raises DemoError if none has."""
    test = events.filter(pl.col("part") == Part.TEST).group_by("user_id", maintain_order=True)
    users = test.agg(rows=pl.len(), clicks=pl.col("label").sum()).filter(
        (pl.col("rows") >= _FEWEST_EVENTS)
        & (pl.col("clicks") >= _FEWEST_CLICKS)
        & (pl.col("rows") - pl.col("clicks") >= _FEWEST_CLICKS)
    )
    if users.is_empty():
        raise DemoError(f"no user has {_FEWEST_EVENTS} test rows with {_FEWEST_CLICKS} of each label")
    user_id: str = users["user_id"][0]
    return user_id


def _words(bundle: Path) -> dict[str, dict[str, Any]]:
    lines = (bundle / "items.meta.jsonl").read_text("utf-8").splitlines()
    return {words["id"]: words for words in map(json.loads, lines)}
