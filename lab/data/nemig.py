"""NeMig, from your own copy of github.com/andreeaiana/nemig, as a dataset: lists of news, with the position of each.

Iana et al. 2022, doi:10.5281/zenodo.7442424. Each participant of a study in Germany or the US met five lists of up to
six headlines, and clicked at most one of each. The user data is CC BY-NC-SA 4.0: this project contains no part of it.
What participants said of themselves, their politics among it, is not read.
"""

import bz2
import json
import re
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Literal

import polars as pl

from msd.contract.files import sha256_file, write_text_atomic
from msd.dataset.config import CONFIG_FILE
from msd.dataset.problem import ArchiveError
from msd.dataset.table import write_parquet
from msd.step import STEP_FILE, check_out, fingerprint_of, is_done, mark_done

Language = Literal["de", "en"]
_FORMAT = 1
_PARTS = ("train", "train", "train", "valid", "test")  # by a participant's list
# No time is published. Lists follow each other by an hour, and all participants meet theirs at once.
_START_S, _LIST_S = 1_640_995_200, 3_600
_SHOWN = re.compile(r"news_(\d+)-([01])")
_HEADLINE = re.compile(r'<[^>]*/news_title_(\d+)> <https://schema\.org/headline> ("(?:[^"\\]|\\.)*") \.')
_PUBLISHER = re.compile(r"<[^>]*/news_(\d+)> <https://schema\.org/publisher> <[^>]*/([^/>]+)> \.")
_NO_TOPIC = "-1"


def write_nemig(folder: Path, copy: Path, language: Language) -> dict[str, int] | None:
    """Write the lists of one language and return the rows of each part; None if `folder` already has exactly these.

    A participant's first three lists are train, the fourth valid, the fifth test; lists of one number have one time, so
    that none knows another's clicks. Raises ArchiveError if a file is missing or malformed, or `folder` has other
    content.
    """
    start = time.perf_counter()
    graph = f"data/kg/{language}/nemig_{language}_base-instances"
    names = {
        "lists": f"data/user_data/{language}/behaviors.tsv",
        "headlines": f"{graph}_content_literals.nt.bz2",
        "publishers": f"{graph}_metadata_resources.nt.bz2",
        "topics": f"data/cache/{language}/subtopic_annotations.csv",
        "sentiments": f"data/cache/{language}/sentiment_annotations.csv",
    }
    paths = {name: copy / path for name, path in names.items()}
    if missing := [path for path in paths.values() if not path.is_file()]:
        raise ArchiveError(f"{missing[0]}: there is no such file; clone https://github.com/andreeaiana/nemig")
    config = resources.files("lab.data").joinpath("nemig.toml").read_text("utf-8").replace("LANGUAGE", language)
    run = fingerprint_of(_FORMAT, config, [sha256_file(path) for path in paths.values()])
    if is_done(folder, run):
        return None
    check_out(folder, (STEP_FILE,), "dataset", ArchiveError)
    events = _events(paths["lists"])
    write_parquet(folder / "events.parquet", events)
    write_parquet(folder / "items.parquet", _items(paths, events["item_id"].unique().sort()))
    write_text_atomic(folder / CONFIG_FILE, config)
    mark_done(folder, run, time.perf_counter() - start)
    return {part: events.filter(part=part).height for part in dict.fromkeys(_PARTS)}


def _events(path: Path) -> pl.DataFrame:
    """Return one row per headline of each list, in time order. A participant's lists are in the order of their IDs."""
    lists: dict[str, list[tuple[int, str]]] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        values = line.split("\t")
        if len(values) != 4 or not values[0].isdigit() or not all(map(_SHOWN.fullmatch, values[3].split())):
            raise ArchiveError(f"{path}, line {number}: ID, user, history and list are due, and there is {line[:80]!r}")
        lists.setdefault(values[1], []).append((int(values[0]), values[3]))
    rows = []
    for user, held in lists.items():
        if len(held) != len(_PARTS):
            raise ArchiveError(f"{path}: {user} has {len(held)} lists, where {len(_PARTS)} are due")
        for place, (_, shown) in enumerate(sorted(held)):
            rows += [
                (user, item, _START_S + place * _LIST_S, int(label), str(position), _PARTS[place])
                for position, (item, label) in enumerate(_SHOWN.findall(shown), 1)
            ]
    columns = ["user_id", "item_id", "at", "label", "position", "part"]
    return pl.DataFrame(rows, columns, orient="row").sort("at", maintain_order=True)


def _items(paths: dict[str, Path], shown: pl.Series) -> pl.DataFrame:
    """Return headline, publisher, topic and sentiment of the headlines shown. Raises ArchiveError for one without."""
    texts = {name: json.loads(text, strict=False) for name, text in _triples(paths["headlines"], _HEADLINE)}
    if unknown := sorted(set(shown) - set(texts)):
        raise ArchiveError(f"{paths['headlines']}: has no headline of news_{unknown[0]}")
    table = pl.DataFrame({"item_id": shown, "headline": [texts[name] for name in shown]})
    publishers = dict(_triples(paths["publishers"], _PUBLISHER))
    topics, sentiments = (_annotated(paths[name], column) for name, column in _ANNOTATIONS.items())
    return table.with_columns(
        publisher=pl.col("item_id").replace_strict(publishers, default=None, return_dtype=pl.String),
        topic=pl.col("item_id").replace_strict(topics, default=None, return_dtype=pl.String).replace(_NO_TOPIC, None),
        sentiment=pl.col("item_id").replace_strict(sentiments, default=None, return_dtype=pl.String),
    )


_ANNOTATIONS = {"topics": "topic", "sentiments": "sentiment_label"}


def _triples(path: Path, pattern: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """Yield the number of the news and the value of each triple that matches."""
    try:
        text = bz2.decompress(path.read_bytes()).decode()
    except (OSError, ValueError, EOFError) as error:
        raise ArchiveError(f"{path}: cannot be read as N-Triples in bzip2: {error}") from None
    for line in text.splitlines():
        if found := pattern.fullmatch(line):
            yield found[1], found[2]


def _annotated(path: Path, column: str) -> dict[str, str]:
    """Return a column by the number of the news."""
    try:
        table = pl.read_csv(path, infer_schema=False).select("id", column)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ArchiveError(f"{path}: cannot be read as CSV with the columns id and {column}: {error}") from None
    return dict(table.iter_rows())
