"""The split: events in time, of the log or of each user, cut at the floors, or the parts that the events name."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.dataset.check import check_dataset
from msd.dataset.config import DatasetConfig, SplitConfig, load_config
from msd.dataset.load import Dataset, load_dataset
from msd.dataset.order import sort_events
from msd.dataset.problem import DatasetError
from msd.dataset.split import split_events
from msd.dataset.texts import student_texts
from tests.dataset.small import CONFIG, EVENTS, spoil, write_small
from tests.dataset.tiny import write_tiny_dataset


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DatasetConfig:
    return load_config(write_tiny_dataset(tmp_path_factory.mktemp("tiny"), users=2))


# One user with 20 events makes sure that no part is empty; the others are anything, ties and repeats included.
ids = st.sampled_from(["1", "2", "10", "007", "7", "a", "b1", "9" * 25])
others = st.lists(st.tuples(st.sampled_from(["u1", "u2", "30", "4"]), ids, st.integers(0, 5), st.integers(0, 1)))


def frame_of(rows: list[tuple[str, str, int, int]]) -> pl.DataFrame:
    full = [*(("full", "1", time, 1) for time in range(20)), *rows]
    schema = {"user_id": str, "item_id": str, "at": int, "label": pl.Int8}
    return sort_events(pl.DataFrame(full, schema=schema, orient="row"))


def item_key(item: str) -> tuple[bool, int, str]:
    return (False, int(item), item) if item.isascii() and item.isdigit() else (True, 0, item)


@given(
    rows=others,
    cuts=st.sampled_from([(0.5, 0.8, 0.9), (0.29, 0.57, 0.86), (1 / 3, 0.7, 0.95)]),
    by=st.sampled_from(["time", "user"]),
)
@settings(max_examples=120)
def test_parts_follow_time_and_keep_ties_together(
    config: DatasetConfig, rows: list[tuple[str, str, int, int]], cuts: tuple[float, float, float], by: str
) -> None:
    split = SplitConfig.model_validate({"profile_window": cuts[0], "train": cuts[1], "valid": cuts[2], "by": by})
    events = frame_of(rows)
    parts = split_events(events, config.model_copy(update={"split": split}))
    assert parts.dtype == np.int8
    told = events.with_columns(part=pl.Series(parts))
    for (user,), own in told.group_by("user_id" if by == "user" else pl.lit("log")):
        edges = [math.floor(Fraction(str(cut)).limit_denominator(10**6) * own.height) for cut in cuts]
        placed = sorted((at, item_key(shown_to), item_key(item), part) for shown_to, item, at, _, part in own.rows())
        keys = [one[:3] for one in placed]
        middles = [keys.index(key) + (keys.count(key) - 1) // 2 for key in keys]
        due = [sum(middle >= edge for edge in edges) for middle in middles]
        assert [one[-1] for one in placed] == due, user


def of_users(config: DatasetConfig) -> DatasetConfig:
    return config.model_copy(update={"split": SplitConfig(by="user")})


def test_cuts_are_decimal(config: DatasetConfig) -> None:
    events = pl.DataFrame({"user_id": ["u"] * 100, "item_id": ["1"] * 100, "at": range(100), "label": [0] * 100})
    split = SplitConfig(profile_window=0.29, train=0.57, valid=0.58)
    parts = split_events(events, config.model_copy(update={"split": split}))
    assert np.bincount(parts).tolist() == [29, 28, 1, 42]


def test_rejects_empty_part(config: DatasetConfig) -> None:
    events = pl.DataFrame({"user_id": ["u", "u", "v"], "item_id": ["1", "2", "3"], "at": [1, 2, 3], "label": [0, 1, 1]})
    with pytest.raises(DatasetError, match="no event falls into the parts? train, valid: 3 events of 2 users"):
        split_events(events, of_users(config))
    with pytest.raises(DatasetError, match="no event falls into the part valid: 3 events of 2 users"):
        split_events(events, config)
    with pytest.raises(DatasetError, match="window, train, valid, test: 0 events of 0 users"):
        split_events(events.head(0), config)


def test_parts_align_with_events(tmp_path: Path) -> None:
    dataset = load_dataset(write_tiny_dataset(tmp_path))
    parts = split_events(dataset.events, dataset.config)
    assert np.bincount(parts).tolist() == [1500, 900, 300, 300]
    own = dataset.events.with_columns(part=pl.Series(parts)).filter(pl.col("user_id") == "u7")
    assert own["part"].to_list() == [0] * 25 + [1] * 15 + [2] * 5 + [3] * 5


GIVEN = CONFIG + '\n[split]\ncolumn = "fold"\n'
WORDS = ["window"] * 3 + ["train"] * 4 + ["valid", "valid", "test"]


def events_of(words: list[str], text: str = EVENTS) -> str:
    """The small events with a column `fold`: a word for each of a user's ten, in time."""
    header, *rows = text.splitlines()
    return "\n".join([f"{header},fold", *(f"{row},{words[place // 5]}" for place, row in enumerate(rows))]) + "\n"


def load(folder: Path, words: list[str] = WORDS, config: str = GIVEN) -> Dataset:
    return load_dataset(write_small(folder, config=config, events=events_of(words)))


def test_given_parts_are_used(tmp_path: Path) -> None:
    dataset = load(tmp_path)
    assert dataset.events.schema["part"] == pl.String
    parts = split_events(dataset.events, dataset.config)
    assert parts.dtype == np.int8
    own = dataset.events.with_columns(number=pl.Series(parts)).filter(pl.col("user_id") == "u3")
    assert own["part"].to_list() == WORDS
    assert own["number"].to_list() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 3]
    # Only with the key.
    dataset = load(tmp_path, config=CONFIG)
    assert "part" not in dataset.events.columns
    assert np.bincount(split_events(dataset.events, dataset.config)).tolist() == [25, 15, 5, 5]


def test_user_text_is_of_the_given_window(tmp_path: Path) -> None:
    texts = student_texts(load(tmp_path))[1]
    assert texts["u1"] == "from York Liked: Mystery."
    assert student_texts(load(tmp_path / "none", ["train"] * 3 + WORDS[3:]))[1]["u1"] == "from York"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("Train", "events.csv, row 7, fold: 'Train' should be one of window, train, valid, test"),
        ("1", "events.csv, row 7, fold: '1' should be one of window, train, valid, test"),
        ("", "events.csv, row 7, fold: the value is missing"),
    ],
)
def test_rejects_unknown_part(tmp_path: Path, value: str, message: str) -> None:
    folder = write_small(tmp_path, config=GIVEN, events=spoil(events_of(WORDS), 7, "fold", value))
    with pytest.raises(DatasetError) as error:
        load_dataset(folder)
    assert [str(problem) for problem in error.value.problems] == [message]
    with pytest.raises(DatasetError, match=r"events\.csv, fold: is missing; the file has the columns user_id"):
        load_dataset(write_small(tmp_path, config=GIVEN))


@pytest.mark.parametrize("key", ["profile_window = 0.5", "train = 0.8", "valid = 0.9"])
def test_rejects_column_and_cuts(tmp_path: Path, key: str) -> None:
    with pytest.raises(DatasetError) as error:
        load(tmp_path, config=f"{GIVEN}{key}\n")
    name = key.split(" ")[0]
    expected = f"split: column says which part each event is in, and so does {name}; keep one way"
    assert [str(problem) for problem in error.value.problems] == [f"dataset.toml, {expected}"]


@pytest.mark.parametrize(
    ("words", "empty"),
    [
        (["window"] * 5 + ["train"] * 5, "parts valid, test;"),
        (["window"] * 5 + ["valid"] * 2 + ["test"] * 3, "part train;"),
    ],
)
def test_rejects_given_part_without_events(tmp_path: Path, words: list[str], empty: str) -> None:
    dataset = load(tmp_path, words)
    with pytest.raises(DatasetError) as error:
        split_events(dataset.events, dataset.config)
    expected = f"events.csv, fold: no event falls into the {empty} only the window may go without"
    assert [str(problem) for problem in error.value.problems] == [expected]
    assert [str(problem) for problem in check_dataset(tmp_path).problems] == [expected]


def test_early_test_rows_are_noted(tmp_path: Path) -> None:
    early = ["window", "test", "train", "test", "train", "train", "valid", "train", "valid", "test"]
    notes = "\n".join(check_dataset(write_small(tmp_path, config=GIVEN, events=events_of(early))).notes)
    assert "10 test events lie before a window or train event of the same user" in notes
    assert "change fold in events.csv" in notes
    report = check_dataset(write_small(tmp_path, config=GIVEN, events=events_of(WORDS)))
    assert report.counts["window_events"] == 15
    assert "lie before" not in "\n".join(report.notes)


def test_anonymous_requests_are_in_all_parts_and_each_in_one(config: DatasetConfig) -> None:
    """Where users are cut: as users of one impression they would all be test rows; as one user, those of the last
    days."""
    config = of_users(config)
    rows = [(f"\0r{number}", str(place), number, 0) for number in range(2_000) for place in range(2)]
    events = frame_of(rows).with_columns(pl.Series("part", split_events(frame_of(rows), config)))
    anonymous = events.filter(pl.col("user_id") != "full")
    by_request = anonymous.group_by("user_id").agg(pl.col("part").n_unique(), at=pl.col("at").first())
    shares = anonymous["part"].value_counts(normalize=True).sort("part")["proportion"].to_list()

    assert by_request["part"].max() == 1
    assert shares == pytest.approx([0.5, 0.3, 0.1, 0.1], abs=0.04)
    assert anonymous.group_by("part").agg(pl.col("at").mean())["at"].to_list() == pytest.approx([1_000] * 4, abs=150)
    alone = frame_of([]).with_columns(pl.Series("part", split_events(frame_of([]), config)))
    assert events.filter(pl.col("user_id") == "full").equals(alone)
