"""What the student may read: nothing that happened after a user's profile window."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from msd.dataset.load import Dataset, load_dataset
from msd.dataset.split import Part, split_events
from msd.dataset.texts import student_texts, teacher_texts
from tests.dataset.small import CONFIG, EVENTS, USERS, write_small
from tests.dataset.tiny import write_tiny_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny"))


def with_events(dataset: Dataset, events: pl.DataFrame) -> Dataset:
    return Dataset(dataset.config, dataset.folder, events, dataset.items, dataset.users, dataset.fingerprint)


def test_later_events_do_not_change_a_users_text(folder: Path) -> None:
    dataset = load_dataset(folder)
    late = pl.Series("late", split_events(dataset.events, dataset.config) != Part.WINDOW)
    rng = np.random.default_rng(3)
    items = pl.Series(rng.permutation(dataset.events["item_id"].to_numpy()).tolist())
    changed = dataset.events.with_columns(
        label=pl.when(late).then(1 - pl.col("label")).otherwise("label").cast(pl.Int8),
        item_id=pl.when(late).then(items).otherwise("item_id"),
        at=pl.when(late).then(pl.col("at") + 90 * 86_400).otherwise("at"),
    )
    assert not changed.equals(dataset.events)
    assert student_texts(with_events(dataset, changed)) == student_texts(dataset)


def test_window_clicks_change_a_users_text(folder: Path) -> None:
    dataset = load_dataset(folder)
    changed = dataset.events.with_columns(label=(1 - pl.col("label")).cast(pl.Int8))
    _, before = student_texts(dataset)
    _, after = student_texts(with_events(dataset, changed))
    assert all(before[user] != after[user] for user in before)


def test_titles_are_newest_first_and_unique(tmp_path: Path) -> None:
    rows = ["u1,1,1,1,", "u1,2,2,1,", "u1,1,3,1,", "u1,10,4,0,", *(f"u1,10,{time},1," for time in range(5, 11))]
    texts = student_texts(load_dataset(write_small(tmp_path, events="\n".join([EVENTS.splitlines()[0], *rows]))))[1]
    assert texts["u1"] == "from York Liked: Mystery; Tent; Boots."
    assert texts["u2"] == "from York"
    # An item without a title is named by its text, and users of events alone have their likes.
    config = CONFIG.replace('title = "title"\n', "")
    texts = student_texts(load_dataset(write_small(tmp_path, config=config, users="user_id,city\nu1,York\n")))[1]
    assert "Liked: Boots, outdoor; Mystery,." in texts["u1"]
    assert set(texts) == {"u1", "u2", "u3", "u4", "u5"}
    assert texts["u2"].startswith("Liked: ")


def test_only_the_teacher_reads_dislikes(tmp_path: Path) -> None:
    lines = EVENTS.splitlines()
    rows = ["u1,1,1,1,,0", "u1,2,2,0,,1", "u1,10,3,0,,0", *(f"u1,10,{time},0,,1" for time in range(8, 11))]
    others = [f"{line},0" for line in lines[1:] if not line.startswith("u1,")]
    events = "\n".join([f"{lines[0]},low", *rows, *others])
    config = CONFIG.replace('file = "events.csv"', 'file = "events.csv"\ndisliked = "low"') + '\n[split]\nby = "user"\n'
    dataset = load_dataset(write_small(tmp_path, config=config, events=events))
    assert student_texts(dataset)[1]["u1"] == "from York Liked: Tent."
    assert teacher_texts(dataset)[1]["u1"] == "from York Liked: Tent. Disliked: Boots."
    assert teacher_texts(dataset)[1]["u2"] == student_texts(dataset)[1]["u2"]


def test_id_without_text_is_left_out(tmp_path: Path, folder: Path) -> None:
    dataset = load_dataset(folder)
    items, users = student_texts(dataset)
    assert set(items) == set(dataset.items.drop_nulls("text")["item_id"])
    assert len(items) == dataset.items.height - 1
    no_clicks = EVENTS.replace(",1,ios", ",0,ios")
    small = load_dataset(write_small(tmp_path, events=no_clicks, users=USERS.replace("u3,York", "u3,")))
    assert set(student_texts(small)[1]) == {"u1", "u2", "u4", "u5"}
    assert set(users) == set(dataset.users["user_id"])
