"""A small seeded dataset whose clicks can be learned, with all kinds of features, and its knowledge."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from msd.dataset.load import Dataset
from msd.dataset.texts import student_texts
from msd.teachers.knowledge import Knowledge, TeachRecord
from tests.dataset.small import feature

TOPICS = ("games", "travel", "cooking", "finance", "music", "sport")
DEVICES = ("ios", "android", "desktop")
WORDS = {
    "games": ("console", "quest", "arcade", "puzzle"),
    "travel": ("beach", "flight", "mountain", "hotel"),
    "cooking": ("recipe", "oven", "spice", "baking"),
    "finance": ("savings", "loan", "pension", "shares"),
    "music": ("guitar", "concert", "vinyl", "choir"),
    "sport": ("running", "football", "cycling", "tennis"),
}
START = int(datetime(2024, 3, 1, tzinfo=UTC).timestamp())
EVENTS_PER_USER = 50
CONFIG = """
format = 1
name = "tiny"
description = "made up"
semantic_dim = 64

[events]
file = "events.parquet"
label = "click"

[items]
file = "items.csv"
title = "title"
text = "{title}. About {topics}. By {advertiser}."

[users]
file = "users.jsonl"
text = "A {age}-year-old from {city}."

[history]
length = 20

[openrtb]
user_id = ["user.buyeruid", "user.id"]
features = { device = "device.devicetype", hour = "ext.local_hour" }
"""
CONFIG += feature("topics", "item", "bag") + "max_values = 3\n"
CONFIG += feature("price", "item", "numeric") + "log = true\n"
CONFIG += feature("advertiser", "item", "categorical") + "buckets = 32\n"
CONFIG += feature("age", "user", "numeric")
CONFIG += feature("city", "user", "categorical") + "min_count = 2\n"
CONFIG += feature("device", "context", "categorical")
CONFIG += feature("hour", "context", "numeric") + 'column = "local_hour"\n'
CONFIG += feature("position", "context", "categorical") + 'serving_value = "1"\n'


def write_tiny_dataset(
    folder: Path, seed: int = 0, users: int = 60, items: int = 80, each: int = EVENTS_PER_USER
) -> Path:
    """Writes a dataset (users × `each` events) into `folder` and returns it: one file of each format.

    A click depends on whether an item's topic is one of the user's two, on the item's appeal, and on the position.
    User ids are u1, u2, …; item ids are 1, 2, …, the last of which are shown late only, or never.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    first, second = rng.integers(len(TOPICS), size=(2, items))
    tastes = np.argsort(rng.random((users, len(TOPICS))), axis=1)[:, :2]
    (folder / "dataset.toml").write_text(CONFIG, encoding="utf-8")
    _write_events(folder, rng, tastes, np.stack([first, second], axis=1), each)
    _write_items(folder, rng, first, second)
    _write_users(folder, rng, users)
    return folder


def _write_events(folder: Path, rng: np.random.Generator, tastes: np.ndarray, topics: np.ndarray, each: int) -> None:
    users, items = len(tastes), len(topics)
    n = users * each
    user = np.repeat(np.arange(users), each)
    share = np.tile(np.arange(each) / each, users)
    item = (rng.random(n) * (items * (0.85 + 0.12 * share))).astype(int)
    position = rng.integers(1, 6, n)
    fit = (tastes[user][:, :, None] == topics[item][:, None, :]).any(axis=(1, 2))
    appeal = rng.normal(0.0, 0.7, items)[item]
    chance = 1 / (1 + np.exp(-(3.0 * fit - 1.2 + appeal - 0.25 * position)))
    device = [(*DEVICES, None)[one] for one in rng.choice(len(DEVICES) + 1, n, p=[0.4, 0.35, 0.2, 0.05])]
    frame = pl.DataFrame(
        {
            "user_id": [f"u{one + 1}" for one in user],
            "item_id": item + 1,
            "at": START + (share * 60 * 86_400).astype(int) + rng.integers(0, 3600, n),
            "click": (rng.random(n) < chance).astype(np.int8),
            "device": device,
            "local_hour": rng.integers(0, 24, n),
            "position": position,
        }
    )
    frame.sample(fraction=1.0, shuffle=True, seed=int(rng.integers(2**31))).write_parquet(folder / "events.parquet")


def _write_items(folder: Path, rng: np.random.Generator, first: np.ndarray, second: np.ndarray) -> None:
    rows = []
    for number, (one, two) in enumerate(zip(first[:-1], second[:-1], strict=True), start=1):
        words = [*rng.choice(WORDS[TOPICS[one]], 2, replace=False), rng.choice(WORDS[TOPICS[two]])]
        rows.append(
            {
                "item_id": number,
                "title": " ".join(words).capitalize() if number % 26 else None,
                "topics": "|".join(dict.fromkeys((TOPICS[one], TOPICS[two]))) if number % 13 else None,
                "price": round(float(rng.lognormal(3.0, 1.0)), 2) if number % 7 else None,
                "advertiser": f"brand {rng.integers(20)}" if number % 11 else None,
            }
        )
    rows.append({"item_id": len(rows) + 1})  # never shown, and nothing is known of it
    pl.DataFrame(rows).write_csv(folder / "items.csv")


def _write_users(folder: Path, rng: np.random.Generator, users: int) -> None:
    lines = []
    for number in range(1, users + 1):
        age = int(rng.integers(18, 80)) if number % 9 else None
        city = str(rng.choice(["Leeds", "York", "Bath"])) if number % 10 else None
        lines.append(json.dumps({"user_id": f"u{number}", "age": age, "city": city}))
    (folder / "users.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_tiny_knowledge(folder: Path, dataset: Dataset) -> Path:
    """Writes what a teacher might say of every item and user that has a text, in the format of `load_knowledge`."""
    item_texts, user_texts = student_texts(dataset)
    folder.mkdir(parents=True, exist_ok=True)
    for name, texts in (("items", item_texts), ("users", user_texts)):
        lines = [_knowledge(id_, text).model_dump_json() for id_, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    record = TeachRecord(
        teacher="tiny",
        prompt_version="1",
        dataset=dataset.config.name,
        items=len(item_texts),
        users=len(user_texts),
        provenance="made up for a test",
    )
    (folder / "teach.json").write_text(record.model_dump_json(), encoding="utf-8")
    return folder


def _knowledge(id_: str, text: str) -> Knowledge:
    tags = [topic for topic in TOPICS if topic in text or any(word in text.lower() for word in WORDS[topic])]
    return Knowledge(
        id=id_,
        known=id_ != "3",
        explicit=f"{text} It is about {', '.join(tags) or 'nothing in particular'}.",
        implicit=f"For people who like {', '.join(tags) or 'surprises'}; others will pass.",
        tags=tuple(tags),
    )
