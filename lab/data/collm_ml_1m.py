"""MovieLens-1M in the time split of CoLLM (arXiv 2310.19488) as a dataset folder, made from GroupLens's
archive.

The split is a rule over calendar months (dataset/ml-1m/processing_ood.ipynb of the authors' repository), so the ratings
suffice, and the authors' pickled tables are not needed. GroupLens asks for acknowledgement (Harper and Konstan 2015,
doi:10.1145/2827872) and forbids redistribution.
"""

import io
import time
import zipfile
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import polars as pl

from msd.contract.files import sha256_file, write_bytes_atomic, write_text_atomic
from msd.dataset.config import CONFIG_FILE
from msd.dataset.ml_100k import natural_title
from msd.dataset.problem import ArchiveError
from msd.dataset.split import cut_events
from msd.step import STEP_FILE, fingerprint_of, is_done, mark_done

# Rows of each part, as the notebook prints them.
PUBLISHED = {"train": 33_891, "valid": 10_401, "test": 7_331}
# Start of each part (UTC). Ratings before train, or from the last start on, belong to no part.
_STARTS = {"train": (2001, 6), "valid": (2002, 4), "test": (2002, 9), None: (2003, 2)}
_LIKED, _DISLIKED = 4, 2
_WINDOW = 0.5  # share of a user's train rows that the user's text is made from
_RATINGS = ("user_id", "item_id", "rating", "timestamp")
_FILMS = ("item_id", "title", "genres")
_LARGEST = 100 << 20  # bytes; ratings.dat has 25 million


def config_text(*, rated: bool) -> str:
    """Return the dataset.toml of this dataset; `rated`: whether events include dislikes."""
    text = resources.files("lab.data").joinpath("collm_ml_1m.toml").read_text("utf-8")
    return text if rated else text.replace('disliked = "disliked"\n', "")


def write_collm_ml_1m(folder: Path, archive: Path, rows: Mapping[str, int] = PUBLISHED) -> dict[str, int] | None:
    """Write the split of `archive`, GroupLens's ml-1m.zip, and return the rows of each part; None if `folder` already
    has exactly these.

    The first half of each user's train rows is the profile window: a user's text comes from train rows alone, and is
    used for later rows only. `rows`: the required number of each part, windows counted as train. Raises ArchiveError if
    the file is not this archive, or `folder` has other content.
    """
    start = time.perf_counter()
    if not archive.is_file():
        raise ArchiveError(
            f"{archive}: there is no such file; download ml-1m.zip from https://grouplens.org/datasets/movielens/1m/"
        )
    run = fingerprint_of(config_text(rated=True), _WINDOW, sha256_file(archive))
    if is_done(folder, run):
        return None
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / STEP_FILE).exists()):
        raise ArchiveError(f"{folder} holds other things; name an empty or a new folder")
    ratings, films = _read(archive)
    events = _split(ratings)
    found = {part: events.filter(part=part).height for part in rows}
    if found != dict(rows):
        counts = ", ".join(f"{found[part]:,} {part} rows where {due:,} are due" for part, due in rows.items())
        raise ArchiveError(f"{archive}: not the ratings of MovieLens-1M: {counts}")
    items = films.join(events, on="item_id", how="semi", maintain_order="left")
    if unknown := sorted(set(events["item_id"]) - set(items["item_id"])):
        raise ArchiveError(f"{archive}: movies.dat lacks the rated film {unknown[0]}")
    write_tables(folder, _with_windows(events), items)
    mark_done(folder, run, time.perf_counter() - start)
    return found


def write_tables(folder: Path, events: pl.DataFrame, items: pl.DataFrame) -> None:
    """Write the dataset of events (user_id, item_id, timestamp, label, part; disliked, if known) and items (item_id,
    title, year, genres)."""
    items = items.with_columns(
        pl.col("title").map_elements(natural_title, return_dtype=pl.String),
        decade=(pl.col("year") // 10 * 10).cast(pl.String) + "s",
    )
    for name, table in (("events", events), ("items", items)):
        buffer = io.BytesIO()
        table.write_parquet(buffer)
        write_bytes_atomic(folder / f"{name}.parquet", buffer.getvalue())
    write_text_atomic(folder / CONFIG_FILE, config_text(rated="disliked" in events.columns))


def _read(archive: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read ratings, and films with year and genres."""
    try:
        with zipfile.ZipFile(archive) as files:
            ratings, films = (
                _table(files, name, columns) for name, columns in (("ratings", _RATINGS), ("movies", _FILMS))
            )
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise ArchiveError(f"{archive} is not GroupLens's ml-1m.zip: {error}") from None
    wrong = ratings.filter(~pl.col("rating").is_between(1, 5))
    if wrong.height:
        raise ArchiveError(f"{archive}: ratings.dat: a rating is {wrong['rating'][0]}, where 1 to 5 are due")
    return ratings, films.with_columns(
        pl.col("genres").str.split("|"), year=pl.col("title").str.extract(r"\((\d{4})\)$").cast(pl.Int64)
    ).select("item_id", "title", "year", "genres")


def _table(files: zipfile.ZipFile, name: str, columns: tuple[str, ...]) -> pl.DataFrame:
    """Return a file's columns, separated by `::`; all except titles and genres are whole numbers. Raises ArchiveError
    for missing or malformed values."""
    inside = f"ml-1m/{name}.dat"
    if inside not in files.namelist():
        raise ArchiveError(f"{files.filename} is not GroupLens's ml-1m.zip: it holds no {inside}")
    if (method := files.getinfo(inside).compress_type) not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ArchiveError(f"{files.filename} is not GroupLens's ml-1m.zip: {inside} is compressed by method {method}")
    with files.open(inside) as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ArchiveError(f"{files.filename}: {inside} has more than {_LARGEST:,} bytes, and so is another file")
    lines = pl.Series(content.decode("latin-1").split("\n"), dtype=pl.String).str.strip_chars_end("\r")
    parts = lines.str.split("::")
    numbers = [column for column in columns if column not in ("title", "genres")]
    table = (
        pl.DataFrame({"line": lines, "count": parts.list.len(), "row": pl.int_range(1, lines.len() + 1, eager=True)})
        .with_columns(parts.list.get(place, null_on_oob=True).alias(column) for place, column in enumerate(columns))
        .filter(pl.col("line") != "")
        .with_columns(pl.col(numbers).cast(pl.Int64, strict=False))
    )
    wrong = table.filter((pl.col("count") != len(columns)) | pl.any_horizontal(pl.col(columns).is_null()))
    if wrong.height:
        raise ArchiveError(
            f"{files.filename}: {inside}, line {wrong['row'][0]}: {'::'.join(columns)} are due, and there is "
            f"{wrong['line'][0][:80]!r}"
        )
    return table.select(columns)


def _split(ratings: pl.DataFrame) -> pl.DataFrame:
    """Return events with their part, in time order; those outside all parts are left out."""
    starts = [int(datetime(*month, 1, tzinfo=UTC).timestamp()) for month in _STARTS.values()]
    part = pl.lit(None, pl.String)
    for name, start in zip(_STARTS, starts, strict=True):
        part = pl.when(pl.col("timestamp") >= start).then(pl.lit(name, pl.String)).otherwise(part)
    return (
        ratings.with_columns(
            label=(pl.col("rating") >= _LIKED).cast(pl.Int64),
            disliked=(pl.col("rating") <= _DISLIKED).cast(pl.Int64),
            part=part,
        )
        .drop_nulls("part")
        .sort("timestamp", "user_id", "item_id")
        .select("user_id", "item_id", "timestamp", "label", "disliked", "part")
    )


def _with_windows(events: pl.DataFrame) -> pl.DataFrame:
    """Mark the first half of each user's train rows as the profile window."""
    train = events.filter(part="train")
    keyed = train.with_columns(pl.col("user_id", "item_id").cast(pl.String), at="timestamp")
    early = pl.Series(cut_events(keyed, [_WINDOW], by_user=True) == 0)
    window = train.with_columns(part=pl.when(early).then(pl.lit("window")).otherwise("part"))
    return pl.concat([window, events.filter(pl.col("part") != "train")])
