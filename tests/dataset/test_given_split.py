"""A split that the events bring along: taken as it stands, each word checked, and told where it goes against time."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from msd.dataset.check import check_dataset
from msd.dataset.load import Dataset, load_dataset
from msd.dataset.problem import DatasetError
from msd.dataset.split import Part, split_events
from msd.dataset.texts import student_texts
from msd.ranker.features import build_features
from msd.ranker.schema_fit import fit_schema
from tests.dataset.small import CONFIG, EVENTS, spoil, write_small
from tests.ranker.made import word_vectors

GIVEN = CONFIG + '\n[split]\ncolumn = "fold"\n'
WORDS = ["window"] * 3 + ["train"] * 4 + ["valid", "valid", "test"]


def events_of(words: list[str], text: str = EVENTS) -> str:
    """The small events with a column `fold`: a word for each of a user's ten, in time."""
    header, *rows = text.splitlines()
    return "\n".join([f"{header},fold", *(f"{row},{words[place // 5]}" for place, row in enumerate(rows))]) + "\n"


def load(folder: Path, words: list[str] = WORDS, config: str = GIVEN) -> Dataset:
    return load_dataset(write_small(folder, config=config, events=events_of(words)))


def test_the_events_own_words_are_the_parts(tmp_path: Path) -> None:
    dataset = load(tmp_path)
    assert dataset.events.schema["part"] == pl.String
    parts = split_events(dataset.events, dataset.config)
    assert parts.dtype == np.int8
    own = dataset.events.with_columns(number=pl.Series(parts)).filter(pl.col("user_id") == "u3")
    assert own["part"].to_list() == WORDS
    assert own["number"].to_list() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 3]


def test_without_the_key_a_column_of_that_name_means_nothing(tmp_path: Path) -> None:
    dataset = load(tmp_path, config=CONFIG)
    assert "part" not in dataset.events.columns
    assert np.bincount(split_events(dataset.events, dataset.config)).tolist() == [25, 15, 5, 5]


def test_the_order_of_rows_makes_no_difference(tmp_path: Path) -> None:
    header, *rows = events_of(WORDS).splitlines()
    turned = "\n".join([header, *reversed(rows)])
    one = load(tmp_path / "one").events
    assert one.equals(load_dataset(write_small(tmp_path / "other", config=GIVEN, events=turned)).events)


def test_the_impressions_of_one_row_share_its_part(tmp_path: Path) -> None:
    header, *rows = events_of(WORDS).splitlines()
    counted = "\n".join([f"{header},shown", *(f"{row},3" for row in rows)])
    config = GIVEN.replace('"events.csv"\n', '"events.csv"\nimpressions = "shown"\n')
    dataset = load_dataset(write_small(tmp_path, config=config, events=counted))
    assert np.bincount(split_events(dataset.events, dataset.config)).tolist() == [15, 20, 10, 5]
    by_row = dataset.events.group_by("user_id", "at").agg(pl.col("part").n_unique(), pl.len())
    assert by_row.select("part", "len").unique().rows() == [(1, 1)]


def test_what_is_said_of_a_user_comes_from_the_given_window(tmp_path: Path) -> None:
    texts = student_texts(load(tmp_path))[1]
    assert texts["u1"] == "from York Liked: Mystery."
    assert student_texts(load(tmp_path / "none", ["train"] * 3 + WORDS[3:]))[1]["u1"] == "from York"


def test_features_and_schema_are_fitted_to_it(tmp_path: Path) -> None:
    dataset = load(tmp_path, ["train"] * 3 + WORDS[3:])
    schema = fit_schema(dataset)
    features = build_features(dataset, schema, word_vectors(dataset))
    assert [len(features.of_part(part)) for part in Part] == [0, 35, 10, 5]
    assert bool(features.knows_user.all())
    assert "part" not in schema.settable["context"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("Train", "events.csv, row 7, fold: 'Train' should be one of window, train, valid, test"),
        ("1", "events.csv, row 7, fold: '1' should be one of window, train, valid, test"),
        ("", "events.csv, row 7, fold: the value is missing"),
    ],
)
def test_a_wrong_word(tmp_path: Path, value: str, message: str) -> None:
    folder = write_small(tmp_path, config=GIVEN, events=spoil(events_of(WORDS), 7, "fold", value))
    with pytest.raises(DatasetError) as error:
        load_dataset(folder)
    assert [str(problem) for problem in error.value.problems] == [message]


def test_a_column_that_is_not_there_or_holds_no_words(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"events\.csv, fold: is missing; the file has the columns user_id"):
        load_dataset(write_small(tmp_path, config=GIVEN))
    config = GIVEN.replace("events.csv", "events.parquet")
    frame = pl.read_csv(events_of(WORDS).encode()).with_columns(fold=pl.lit(0.5))
    folder = write_small(tmp_path, config=config)
    frame.write_parquet(folder / "events.parquet")
    with pytest.raises(DatasetError, match=r"events\.parquet, fold: has type Float64; expected text"):
        load_dataset(folder)


@pytest.mark.parametrize("key", ["profile_window = 0.5", "train = 0.8", "valid = 0.9"])
def test_a_column_and_cuts_exclude_each_other(tmp_path: Path, key: str) -> None:
    with pytest.raises(DatasetError) as error:
        load(tmp_path, config=f"{GIVEN}{key}\n")
    name = key.split(" ")[0]
    expected = f"split: column says which part each event is in, and so does {name}; keep one way"
    assert [str(problem) for problem in error.value.problems] == [f"dataset.toml, {expected}"]


def test_no_feature_may_be_called_part(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="the name 'part' is reserved"):
        load(tmp_path, config=GIVEN.replace('name = "device"', 'name = "part"'))


@pytest.mark.parametrize(
    ("words", "empty"),
    [
        (["window"] * 5 + ["train"] * 5, "parts valid, test;"),
        (["window"] * 5 + ["valid"] * 2 + ["test"] * 3, "part train;"),
    ],
)
def test_a_part_without_events_is_named(tmp_path: Path, words: list[str], empty: str) -> None:
    dataset = load(tmp_path, words)
    with pytest.raises(DatasetError) as error:
        split_events(dataset.events, dataset.config)
    expected = f"events.csv, fold: no event falls into the {empty} only the window may go without"
    assert [str(problem) for problem in error.value.problems] == [expected]
    assert [str(problem) for problem in check_dataset(tmp_path).problems] == [expected]


def test_test_rows_before_what_is_learned_from_are_counted(tmp_path: Path) -> None:
    early = ["window", "test", "train", "test", "train", "train", "valid", "train", "valid", "test"]
    notes = "\n".join(check_dataset(write_small(tmp_path, config=GIVEN, events=events_of(early))).notes)
    assert "10 test events lie before a window or train event of the same user" in notes
    assert "change fold in events.csv" in notes
    report = check_dataset(write_small(tmp_path, config=GIVEN, events=events_of(WORDS)))
    assert report.counts["window_events"] == 15
    assert "lie before" not in "\n".join(report.notes)
