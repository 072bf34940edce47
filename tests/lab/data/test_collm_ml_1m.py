"""MovieLens-1M's archive as a dataset in CoLLM's split: by month, users' windows within train, no other file taken."""

import zipfile
from pathlib import Path

import polars as pl
import pytest

from lab.data import collm_ml_1m
from lab.data.collm_ml_1m import write_collm_ml_1m
from msd.dataset.check import check_dataset
from msd.dataset.load import Dataset, load_dataset
from msd.dataset.problem import ArchiveError
from msd.dataset.texts import teacher_texts
from tests.lab.data.movielens import FILMS, ROWS, USERS, films, ratings, write_archive


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ml-1m")
    assert write_collm_ml_1m(folder / "data", write_archive(folder), ROWS) == ROWS
    return folder


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    return load_dataset(folder / "data")


def test_ratings_fall_into_parts_by_their_month_and_become_clicks_and_dislikes(folder: Path, dataset: Dataset) -> None:
    days = pl.from_epoch("at").dt.strftime("%Y-%m-%d %H:%M:%S")
    bounds = dataset.events.group_by(pl.col("part").replace("window", "train")).agg(
        first=days.min(), last=days.max(), rows=pl.len()
    )
    assert sorted(bounds.rows()) == [
        ("test", "2002-09-01 00:00:00", "2003-01-31 23:59:59", 20),
        ("train", "2001-06-01 00:00:00", "2002-03-31 23:59:59", 40),
        ("valid", "2002-04-01 00:00:00", "2002-08-31 23:59:59", 20),
    ]
    assert check_dataset(folder / "data").problems == ()
    given = {(line.split("::")[0], line.split("::")[3]): int(line.split("::")[2]) for line in ratings()}
    for user, at, label, disliked in dataset.events.select("user_id", "at", "label", "disliked").iter_rows():
        rating = given[user, str(at)]
        assert (label, disliked) == (rating >= 4, rating <= 2)


def test_films_have_natural_titles_years_and_genres(dataset: Dataset) -> None:
    first = dataset.items.row(0, named=True)
    assert (first["item_id"], first["title"], first["year"]) == ("1", "Les Misérables (1995)", 1995)
    assert (first["genres"], first["decade"]) == (["Drama", "Musical"], "1990s")
    assert first["text"] == "Les Misérables (1995). Genres: Drama, Musical."
    assert dataset.items["item_id"].to_list() == [str(number) for number in range(1, FILMS + 1)]


def test_users_text_is_of_the_first_half_of_train_rows(dataset: Dataset) -> None:
    titles = dict(dataset.items.select("item_id", "title").iter_rows())
    texts = teacher_texts(dataset)[1]
    for user in USERS:
        own = dataset.events.filter(user_id=user)
        assert own["part"].to_list() == ["window"] * 10 + ["train"] * 10 + ["valid"] * 10 + ["test"] * 10
        liked, disliked = (
            "; ".join(titles[item] for item in reversed(own.filter(which, part="window")["item_id"].to_list()))
            for which in (pl.col("label") == 1, pl.col("disliked") == 1)
        )
        assert texts[user] == f"Liked: {liked}. Disliked: {disliked}."


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"ratings": [*ratings(), "7::8::five::991353600"]}, r"ratings.dat, line 89: user_id::item_id::rating::times"),
        ({"ratings": [*ratings(), "7::8::5"]}, r"ratings.dat, line 89: .* and there is '7::8::5'"),
        ({"ratings": [*ratings(), "7::8::6::991353600"]}, r"ratings.dat: a rating is 6, where 1 to 5 are due"),
        ({"ratings": ratings()[:-6]}, r"not the ratings of MovieLens-1M: 40 train .* 16 test rows where 20 are due"),
        ({"movies": ["1::A film"]}, r"movies.dat, line 1: item_id::title::genres are due, and there is '1::A film'"),
        ({"movies": films()[1:]}, r"movies.dat lacks the rated film 1"),
    ],
)
def test_rejects_files_of_another_form(tmp_path: Path, files: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ArchiveError, match=message):
        write_collm_ml_1m(tmp_path / "data", write_archive(tmp_path, **files), ROWS)
    assert not (tmp_path / "data").exists()


def test_rejects_other_files_and_folders(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert write_collm_ml_1m(folder / "data", folder / "ml-1m.zip", ROWS) is None
    path = tmp_path / "train_ood2.pkl"
    with pytest.raises(ArchiveError, match=r"no such file; download ml-1m.zip from https://grouplens.org"):
        write_collm_ml_1m(tmp_path / "data", path, ROWS)
    path.write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(ArchiveError, match=r"train_ood2.pkl is not GroupLens's ml-1m.zip: File is not a zip file"):
        write_collm_ml_1m(tmp_path / "data", path, ROWS)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ml-1m/README", "")
    with pytest.raises(ArchiveError, match=r"is not GroupLens's ml-1m.zip: it holds no ml-1m/ratings.dat"):
        write_collm_ml_1m(tmp_path / "data", path, ROWS)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("ml-1m/ratings.dat", "1::1::5::991353600\n")
    with pytest.raises(ArchiveError, match=r"ml-1m/ratings.dat is compressed by method 14"):
        write_collm_ml_1m(tmp_path / "data", path, ROWS)
    with pytest.raises(ArchiveError, match="holds other things; name an empty or a new folder"):
        write_collm_ml_1m(tmp_path, folder / "ml-1m.zip", ROWS)
    whole = write_archive(tmp_path)
    damaged = whole.read_bytes().replace(b"::5::", b"::4::", 1)
    path.write_bytes(damaged)
    with pytest.raises(ArchiveError, match=r"is not GroupLens's ml-1m.zip: Bad CRC-32"):
        write_collm_ml_1m(tmp_path / "data", path, ROWS)
    monkeypatch.setattr(collm_ml_1m, "_LARGEST", 100)
    with pytest.raises(ArchiveError, match=r"ml-1m/ratings.dat has more than 100 bytes, and so is another file"):
        write_collm_ml_1m(tmp_path / "data", whole, ROWS)
