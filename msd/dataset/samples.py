"""Samples of real ad logs, fetched and never shipped: raw files of Avazu and Criteo, and Open Bandit as a dataset.

Avazu and Criteo published their logs for contests on Kaggle, whose rules bind users of these samples. Open Bandit
(Saito et al. 2021, arXiv 2008.07146) is ZOZO's, under CC BY 4.0.
"""

import hashlib
import io
import tempfile
import time
import zipfile
from collections.abc import Sequence
from http.client import HTTPException
from importlib import resources
from itertools import product
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import polars as pl

from msd.contract.files import write_bytes_atomic, write_text_atomic
from msd.contract.request import ANONYMOUS_PREFIX
from msd.dataset.config import CONFIG_FILE
from msd.dataset.ml_100k import check_sha256, download_wheel
from msd.dataset.problem import ArchiveError
from msd.dataset.table import write_parquet
from msd.step import STEP_FILE, check_out, fingerprint_of, is_done, mark_done

WHEEL = "obp==0.4.1"
WHEEL_SHA256 = "87dec9caf4283c25ab13036532e0a24566f1c7bdcad1653a8ded43b2f5ef8208"
CAMPAIGNS, POLICIES = ("all", "men", "women"), ("bts", "random")
_RAW = "https://raw.githubusercontent.com"
_TIMEOUT_S, _LARGEST = 30, 16 << 20


class Sample(NamedTuple):
    """A raw log: its file's name, where its parts are, the parts in order, and the hash of all of them together."""

    name: str
    url: str
    parts: tuple[str, ...]
    sha256: str


AVAZU = Sample(
    "avazu.csv",
    f"{_RAW}/Unique-Divine/Click-Through-Rate-Prediction/22e9b7dca98e34a8e14fb0602c3e2aa3e0944a33",
    ("CTR_data.csv",),
    "21cd10e478a9b6722cc3c5dc524286f2b0a59844d25f7b0edb40cb60726bed6e",
)
CRITEO = Sample(
    "criteo.tsv",
    f"{_RAW}/Lapis-Hong/Wide-ResDNN/9889f939deb904a35692e2efdc6ab4f743a7df71/data/criteo",
    ("train.csv", "dev.csv", "test.csv"),
    "63cad82efb528edd1f80e93a5fca23c880955c80f31c58ce15dc9a17045374bd",
)


def write_sample(folder: Path, sample: Sample, files: Sequence[Path] = ()) -> bool:
    """Write a raw log to `folder`; return False if it is there already. `files`: its downloaded parts, in order;
    otherwise they are fetched. Raises ArchiveError if a part cannot be fetched, or if they have another hash."""
    path = folder / sample.name
    if path.exists():
        check_sha256(path, sample.sha256)
        return False
    if folder.is_file():
        raise ArchiveError(f"{folder} is a file; name a folder to write {sample.name} to")
    try:
        parts = [one.read_bytes() for one in files] or [_fetch(f"{sample.url}/{part}") for part in sample.parts]
    except (OSError, HTTPException) as error:
        raise ArchiveError(
            f"{sample.name} cannot be fetched: {error}\nCheck the network, or download {', '.join(sample.parts)} from "
            f"{sample.url} elsewhere and pass each with --file, in this order"
        ) from None
    content = b"".join(parts)
    if (found := hashlib.sha256(content).hexdigest()) != sample.sha256:
        raise ArchiveError(
            f"{', '.join(sample.parts)}: expected SHA-256 {sample.sha256} for these together, in this order; found "
            f"{found}; nothing was written"
        )
    write_bytes_atomic(path, content)
    return True


def _fetch(url: str) -> bytes:
    with urlopen(url, timeout=_TIMEOUT_S) as reply:
        return bytes(reply.read(_LARGEST))


def obp_wheel(folder: Path, wheel: Path | None, sha256: str = WHEEL_SHA256) -> Path:
    """Return the wheel with Open Bandit's samples, checked: the given one, or what pip downloads to `folder`. Raises
    ArchiveError."""
    path = wheel or download_wheel(folder, WHEEL, "Open Bandit's samples")
    check_sha256(path, sha256)
    return path


def read_obp(archive: zipfile.ZipFile, policy: str, campaign: str, name: str) -> pl.DataFrame:
    """Return one of the wheel's tables, all columns as text."""
    return pl.read_csv(io.BytesIO(archive.read(f"obp/dataset/obd/{policy}/{campaign}/{name}.csv")), infer_schema=False)


def write_open_bandit(folder: Path, wheel: Path | None = None, sha256: str = WHEEL_SHA256) -> bool:
    """Write the impressions of both policies in three campaigns as a dataset; return False if `folder` has it.

    No user has an ID, so all are anonymous. The policy and its propensity are columns of the events that no model
    reads. Raises ArchiveError if the wheel cannot be fetched or has another hash, or if `folder` holds something else.
    """
    start = time.perf_counter()
    config = resources.files("msd.dataset").joinpath("open_bandit.toml").read_text("utf-8")
    run = fingerprint_of(config, sha256)
    if is_done(folder, run):
        return False
    check_out(folder, (STEP_FILE,), "dataset", ArchiveError)
    with tempfile.TemporaryDirectory(prefix="msd-open-bandit-") as temporary:
        with zipfile.ZipFile(obp_wheel(Path(temporary), wheel, sha256)) as archive:
            events = pl.concat([_impressions(archive, *of) for of in product(CAMPAIGNS, POLICIES)])
            items = pl.concat([_items(archive, campaign) for campaign in CAMPAIGNS])
    write_parquet(folder / "events.parquet", events.sort("at", "user_id"))
    write_parquet(folder / "items.parquet", items)
    write_text_atomic(folder / CONFIG_FILE, config)
    mark_done(folder, run, time.perf_counter() - start)
    return True


def _impressions(archive: zipfile.ZipFile, campaign: str, policy: str) -> pl.DataFrame:
    """Return a log's impressions. The affinities are left out: they are those of the user with each of the items."""
    at = pl.col("timestamp").str.to_datetime("%Y-%m-%d %H:%M:%S%.f%z")
    return read_obp(archive, policy, campaign, campaign).select(
        user_id=pl.format(f"{ANONYMOUS_PREFIX}{campaign}-{policy}-{{}}", pl.int_range(pl.len())),
        item_id=pl.format(f"{campaign}-{{}}", "item_id"),
        at=at.dt.epoch("s"),
        click=pl.col("click").cast(pl.Int8),
        position="position",
        campaign=pl.lit(campaign),
        policy=pl.lit(policy),
        propensity=pl.col("propensity_score").cast(pl.Float64),
        **{f"user_feature_{number}": f"user_feature_{number}" for number in range(4)},
    )


def _items(archive: zipfile.ZipFile, campaign: str) -> pl.DataFrame:
    table = read_obp(archive, POLICIES[0], campaign, "item_context")
    number = pl.col("item_feature_0").cast(pl.Float64)
    return table.select(
        pl.format(f"{campaign}-{{}}", "item_id").alias("item_id"), number, pl.col("^item_feature_[1-3]$")
    )
