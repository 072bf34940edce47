"""An invented market: 80 ads of 40 offers, 300 users with two tastes each, and their clicks, by a law that is written
here. A headline seldom names its audience; the teacher's words in offers.jsonl do.
"""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from msd.contract.files import write_text_atomic
from msd.teachers.knowledge import TeachRecord

NAME = "invented-ads"
_USERS, _EVENTS = 300, 150
_START = 1_767_225_600  # 2026-01-01
_DAYS = 30
# Log-odds of a click: without a taste, with the user's first and second, and the standard deviation between ads.
_BASE, _FIRST, _SECOND, _APPEAL = -3.0, 3.2, 2.2, 0.4
_RARE = "seed-boxes-2"
_RARELY = 0.02  # how often the rare ad is shown, relative to others
_DEVICES = ("ios", "android", "desktop")
_CONFIG = f"""format = 1
name = "{NAME}"
description = "Invented ads, users and clicks"
semantic_dim = 32

[events]
file = "events.parquet"

[items]
file = "items.parquet"
title = "headline"
text = "{{headline}}"

[split]
by = "user"
profile_window = 0.1

[history]
length = 20

# Taste comes from past ads and the teacher's words, as of users that the model has not met.
[ids]
min_count = 1_000_000

[[features]]
name = "category"
side = "item"
kind = "categorical"

[[features]]
name = "price"
side = "item"
kind = "numeric"
log = true

[[features]]
name = "device"
side = "context"
kind = "categorical"

[[features]]
name = "hour"
side = "context"
kind = "categorical"
"""


def write_market(dataset: Path, knowledge: Path, seed: int = 0) -> None:
    """Write the dataset and the teacher's knowledge of its ads."""
    rng = np.random.default_rng(seed)
    ads = _ads()
    dataset.mkdir(parents=True, exist_ok=True)
    write_text_atomic(dataset / "dataset.toml", _CONFIG)
    items = [{name: ad[name] for name in ("item_id", "headline", "category", "price")} for ad in ads]
    pl.DataFrame(items).write_parquet(dataset / "items.parquet")
    _events(ads, rng).write_parquet(dataset / "events.parquet")
    words = [{"id": ad["item_id"], **{name: ad[name] for name in ("explicit", "implicit", "tags")}} for ad in ads]
    write_text_atomic(knowledge / "items.jsonl", "".join(f"{json.dumps(one)}\n" for one in words))
    write_text_atomic(knowledge / "users.jsonl", "")
    record = TeachRecord(
        teacher="recorded-2",
        prompt_version="1",
        dataset=NAME,
        items=len(ads),
        users=0,
        provenance="A large language model on each offer and its headlines, for msd-ctr, Apache-2.0; no clicks shown",
    )
    write_text_atomic(knowledge / "teach.json", record.model_dump_json(indent=2) + "\n")


def _ads() -> list[dict[str, Any]]:
    """Return each headline of each offer as an ad."""
    lines = resources.files("lab.instant").joinpath("offers.jsonl").read_text("utf-8").splitlines()
    return [
        {**offer, "item_id": f"{offer['id']}-{number}", "headline": headline, "price": float(offer["price"])}
        for offer in map(json.loads, lines)
        for number, headline in enumerate(offer["headlines"], start=1)
    ]


def _events(ads: list[dict[str, Any]], rng: np.random.Generator) -> pl.DataFrame:
    """Return impressions: users' sessions in time, each of a random ad. The first users are named by their taste."""
    audiences = list(dict.fromkeys(ad["audience"] for ad in ads))
    audience = np.array([audiences.index(ad["audience"]) for ad in ads])
    shown = np.array([_RARELY if ad["item_id"] == _RARE else 1.0 for ad in ads])
    appeal = rng.normal(0.0, _APPEAL, len(ads))
    rows = []
    for number in range(_USERS):
        name = audiences[number] if number < len(audiences) else f"user-{number}"
        first, second = (number + np.array([0, rng.integers(1, len(audiences))])) % len(audiences)
        times = np.sort(rng.uniform(0, _DAYS * 86_400, _EVENTS)) + _START
        chosen = rng.choice(len(ads), _EVENTS, p=shown / shown.sum())
        odds = _BASE + appeal[chosen] + _FIRST * (audience[chosen] == first) + _SECOND * (audience[chosen] == second)
        clicked = rng.random(_EVENTS) < 1 / (1 + np.exp(-odds))
        rows += [
            (name, ads[ad]["item_id"], int(at), int(click), _DEVICES[rng.integers(3)], str(int(at) // 3_600 % 24))
            for ad, at, click in zip(chosen, times, clicked, strict=True)
        ]
    columns = ["user_id", "item_id", "at", "label", "device", "hour"]
    return pl.DataFrame(rows, schema=columns, orient="row")
