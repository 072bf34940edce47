"""NeMig's lists as a dataset: one moment a list, positions, headlines, and nothing of what participants said."""

from pathlib import Path

import polars as pl
import pytest

from lab.data.nemig import write_nemig
from msd.dataset.check import check_dataset
from msd.dataset.load import load_dataset
from msd.dataset.problem import ArchiveError
from tests.lab.data.nemig import LENGTH, LISTS, NEWS, PEOPLE, write_copy


def test_each_list_is_one_moment_with_positions(tmp_path: Path) -> None:
    copy, folder = write_copy(tmp_path / "copy"), tmp_path / "data"
    part = PEOPLE * LENGTH
    assert write_nemig(folder, copy, "en") == {"train": 3 * part, "valid": part, "test": part}
    assert write_nemig(folder, copy, "en") is None
    assert check_dataset(folder).problems == ()
    data = load_dataset(folder)
    # A participant's lists follow each other in the order of their IDs, whatever that of the lines.
    given = {
        int(number): [tuple(one.removeprefix("news_").split("-")) for one in shown.split()]
        for number, _, _, shown in (
            line.split("\t") for line in (copy / "data/user_data/en/behaviors.tsv").read_text("utf-8").splitlines()
        )
    }
    for user in ("U0", "U7"):
        own = data.events.filter(user_id=user).sort("at", "position")
        assert own["at"].n_unique() == LISTS
        assert own["position"].to_list() == [str(place) for place in range(1, LENGTH + 1)] * LISTS
        first = int(user[1:]) * LISTS
        lists = [one for number in range(first, first + LISTS) for one in given[number]]
        assert list(zip(own["item_id"], own["label"].cast(pl.String), strict=True)) == lists
    assert data.items.height == NEWS
    item = data.items.row(by_predicate=pl.col("item_id") == "5", named=True)
    assert (item["title"], item["publisher"], item["topic"]) == ('Headline "5" of Müller', "Q1", None)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ({"lists": ["0\tU0\t\tnews_1-0 news_2"]}, "line 1: ID, user, history and list are due, and there is "),
        ({"lists": ["0\tU0\t\tnews_1-0"]}, "U0 has 1 lists, where 5 are due"),
        ({"headlines": []}, "has no headline of news_0"),
        ({"topics": ["id,label"]}, "cannot be read as CSV with the columns id and topic"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, lines: dict[str, list[str]], told: str) -> None:
    with pytest.raises(ArchiveError, match=told):
        write_nemig(tmp_path / "data", write_copy(tmp_path / "copy", lines=lines), "en")


def test_copy_of_another_language_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"behaviors\.tsv: there is no such file; clone https://github\.com/"):
        write_nemig(tmp_path / "data", write_copy(tmp_path / "copy", "de"), "en")
