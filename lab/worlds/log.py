"""A made world as a dataset folder, with the truth beside it, which no model reads."""

import time
from pathlib import Path

import numpy as np
import polars as pl

from lab.worlds.law import DEVICES, Floats, Impressions, Law
from lab.worlds.made import MadeWorld, make_world
from lab.worlds.recipe import Recipe, WorldError
from lab.worlds.words import headline
from msd.contract.files import write_text_atomic
from msd.dataset.config import CONFIG_FILE
from msd.dataset.load import Dataset
from msd.dataset.order import sort_events
from msd.dataset.table import write_parquet
from msd.step import STEP_FILE, check_out, fingerprint_of, is_done, mark_done

TRUTH_FILE = "truth.parquet"
_FORMAT = 1
_TRAIN, _VALID = 0.8, 0.9  # shares of the log's rows, in time
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def write_world(folder: Path, recipe: Recipe, seed: int = 0, ends_at: int | None = None) -> MadeWorld:
    """Draw a world and write its log as a dataset, unless the folder has it. `ends_at`: the log's end (Unix s) in place
    of the law's, which the law does not notice. Raises WorldError if the folder has other content."""
    start = time.perf_counter()
    world = make_world(recipe, seed)
    config = _config(recipe, seed)
    later_s = 0 if ends_at is None else ends_at - world.law.ends_at
    run = fingerprint_of(_FORMAT, vars(recipe), seed, config, later_s)
    if is_done(folder, run):
        return world
    check_out(folder, (STEP_FILE,), "dataset", WorldError)
    (folder / STEP_FILE).unlink(missing_ok=True)
    events = sort_events(_events(world, later_s))
    write_parquet(folder / TRUTH_FILE, events.select("truth"))
    write_parquet(folder / "events.parquet", events.drop("truth"))
    write_parquet(folder / "items.parquet", _items(world.law))
    segments = [f"s{segment}" for segment in world.law.users.segment]
    write_parquet(folder / "users.parquet", pl.DataFrame({"user_id": _ids("u", len(segments)), "segment": segments}))
    write_text_atomic(folder / CONFIG_FILE, config)
    mark_done(folder, run, time.perf_counter() - start)
    return world


def truth_of(data: Dataset) -> Floats:
    """Return the true click probabilities [n] of a made world's events, in their order. Raises WorldError."""
    path = data.folder / TRUTH_FILE
    try:
        truth = pl.read_parquet(path)["truth"].to_numpy().astype(np.float64)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise WorldError(f"{path}: cannot be read; write the world again ({error})") from None
    if len(truth) != data.events.height:
        raise WorldError(f"{path}: {len(truth)} rows, where the log has {data.events.height}; write the world again")
    return truth


def columns_of(law: Law, shown: Impressions) -> dict[str, list[str]]:
    """Return IDs and context of impressions as a dataset's columns: the same for the log and for auctions."""
    return {
        "user_id": [f"u{user}" for user in shown.user.tolist()],
        "item_id": [f"i{ad}" for ad in shown.ad.tolist()],
        "device": [DEVICES[device] for device in shown.device.tolist()],
        "hour": [f"h{hour}" for hour in shown.hour.tolist()],
        "weekday": [_WEEKDAYS[day] for day in shown.weekday.tolist()],
        **({"position": [str(slot + 1) for slot in shown.slot.tolist()]} if len(law.recipe.slots) > 1 else {}),
    }


def _events(world: MadeWorld, later_s: int) -> pl.DataFrame:
    """Return the log with its truth, with all times later by some seconds. A conversion that comes after the log is
    unknown."""
    shown = world.shown
    place = np.searchsorted(shown.at, shown.at) / len(shown.at)  # rows of one second are in one part
    parts = np.array(["train", "valid", "test"])[(place >= _TRAIN).astype(int) + (place >= _VALID)]
    columns = {**columns_of(world.law, shown), "at": shown.at + later_s, "label": world.clicks.astype(np.int8)}
    events = pl.DataFrame({**columns, "truth": world.truth, **({"part": parts} if world.recipe.by_time else {})})
    if world.recipe.late_days is None:
        return events
    converted_at = shown.at + world.delay_s
    known = world.converted & (converted_at < world.law.ends_at)
    return events.with_columns(
        conversion=pl.Series(known.astype(np.int8)),
        converted_at=pl.Series(
            [at + later_s if is_known else None for at, is_known in zip(converted_at.tolist(), known, strict=True)]
        ),
    )


def _items(law: Law) -> pl.DataFrame:
    ads = law.ads
    advertisers = [f"a{advertiser}" for advertiser in ads.advertiser]
    columns = {"item_id": _ids("i", len(advertisers)), "advertiser": advertisers}
    if law.recipe.texts:
        rng = np.random.default_rng(len(advertisers))
        return pl.DataFrame({**columns, "headline": [headline(topic, rng) for topic in ads.topic.tolist()]})
    return pl.DataFrame({**columns, "topic": [f"t{topic}" for topic in ads.topic]})


def _ids(letter: str, count: int) -> list[str]:
    return [f"{letter}{number}" for number in range(count)]


def _config(recipe: Recipe, seed: int) -> str:
    """Return the dataset.toml."""
    features = [
        ("advertiser", "item"),
        ("segment", "user"),
        *((name, "context") for name in ("device", "hour", "weekday")),
    ]
    features += [] if recipe.texts else [("topic", "item")]
    lines = ["format = 1", f'name = "{recipe.name}"', f'description = "A made log with a known law, seed {seed}"']
    lines += ["semantic_dim = 32", "", "[events]", 'file = "events.parquet"']
    lines += ['conversion = "conversion"', 'converted_at = "converted_at"'] if recipe.late_days is not None else []
    lines += ["", "[items]", 'file = "items.parquet"']
    lines += ['title = "headline"', 'text = "{headline}"'] if recipe.texts else []
    lines += ["", "[users]", 'file = "users.parquet"']
    lines += ["", "[split]", 'column = "part"' if recipe.by_time else 'by = "user"']
    for name, side in features:
        lines += ["", "[[features]]", f'name = "{name}"', f'side = "{side}"', 'kind = "categorical"']
    if len(recipe.slots) > 1:
        lines += ["", "[[features]]", 'name = "position"', 'side = "context"', 'kind = "categorical"']
        lines += ['serving_value = "1"']
    return "\n".join([*lines, ""])
