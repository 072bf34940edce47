"""MovieLens-100K out of a wheel of the same layout, made here: no network is needed."""

import zipfile
from pathlib import Path

import pytest

from msd.contract.files import sha256_file
from msd.dataset.load import load_dataset
from msd.dataset.ml_100k import natural_title, write_ml_100k
from msd.dataset.problem import ArchiveError
from msd.dataset.split import split_events

INTER = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
INTER += [
    f"{user}\t{item}\t{1 + (user * item) % 5}\t{881250949 + 3600 * item}" for user in (1, 2) for item in range(1, 11)
]
ITEM = [
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
    "1\tToy Story\t1995\tAnimation Children's Comedy",
    '2\tBlue "Angel", The (Blaue Engel, Der)\t1930\tDrama',
    "3\tunkonwn\tunkonwn\tunknown",
    "4\tLand Before Time III (1995)\tV\tAnimation",
]
ITEM += [f"{number}\tFilm {number}\t1990\tDrama" for number in range(5, 11)]
USER = ["user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"]
USER += ["1\t24\tM\ttechnician\t85711", "2\t53\tF\tother\t94043"]


def make_wheel(folder: Path, **replaced: list[str]) -> Path:
    wheel = folder / "recbole-1.2.1-py3-none-any.whl"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        for part, lines in ({"inter": INTER, "item": ITEM, "user": USER} | replaced).items():
            archive.writestr(f"recbole/dataset_example/ml-100k/ml-100k.{part}", "\n".join(lines) + "\n")
    return wheel


def write(folder: Path, wheel: Path) -> bool:
    return write_ml_100k(folder, wheel, sha256_file(wheel))


def test_written_dataset_loads(tmp_path: Path) -> None:
    assert write(tmp_path / "data", make_wheel(tmp_path))
    dataset = load_dataset(tmp_path / "data")
    assert dataset.events.height == 20
    columns = ["user_id", "item_id", "at", "label", "disliked", "hour", "weekday"]
    assert dataset.events.select(columns).row(0) == ("1", "1", 881254549, 0, 1, "16", "thu")
    assert set(dataset.events.columns) == set(columns)
    for user, item, label, disliked in dataset.events.select("user_id", "item_id", "label", "disliked").rows():
        rating = int(user) * int(item) % 5 + 1
        assert (label, disliked) == (rating >= 4, rating <= 2)
    titles = ["Toy Story", 'The Blue "Angel" (Der Blaue Engel)', "unknown", "Land Before Time III"]
    assert dataset.items["title"].to_list()[:4] == titles
    assert dataset.items["release_year"].to_list()[:4] == [1995.0, 1930.0, None, 1995.0]
    assert dataset.items["decade"].to_list()[:4] == ["1990s", "1930s", None, "1990s"]
    assert dataset.items["genres"].to_list()[0] == ["Animation", "Children's", "Comedy"]
    assert dataset.items["genres"].to_list()[2] is None
    assert dataset.items["text"][0] == "Toy Story (1995). Genres: Animation, Children's, Comedy."
    assert dataset.users["text"].to_list() == ["A 24-year-old technician (man).", "A 53-year-old other (woman)."]
    assert len(split_events(dataset.events, dataset.config)) == 20


@pytest.mark.parametrize(
    ("title", "natural"),
    [
        ("Godfather, The", "The Godfather"),
        ("Star Maker, The (Uomo delle stelle, L')", "The Star Maker (L'Uomo delle stelle)"),
        ("Shall We Dance? (1937)", "Shall We Dance? (1937)"),
        ("Maybe, Maybe Not (Bewegte Mann, Der)", "Maybe, Maybe Not (Der Bewegte Mann)"),
        ("Fish Called Wanda, A", "A Fish Called Wanda"),
        ("Paris, Texas", "Paris, Texas"),
    ],
)
def test_titles_start_with_their_article(title: str, natural: str) -> None:
    assert natural_title(title) == natural


@pytest.mark.parametrize("name", ["events.parquet", "dataset.toml", "step.json"])
def test_writes_again_only_for_a_missing_file(tmp_path: Path, name: str) -> None:
    wheel = make_wheel(tmp_path)
    write(tmp_path / "data", wheel)
    fingerprint = load_dataset(tmp_path / "data").fingerprint
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()}
    assert not write_ml_100k(tmp_path / "data", tmp_path / "no.whl", sha256_file(wheel))
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()}
    (tmp_path / "data" / name).unlink()
    assert write(tmp_path / "data", wheel)
    assert load_dataset(tmp_path / "data").fingerprint == fingerprint


def test_rejects_folder_of_another_dataset(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "dataset.toml").write_text('name = "mine"', encoding="utf-8")
    with pytest.raises(ArchiveError, match="of another dataset or was edited"):
        write(folder, make_wheel(tmp_path))
    assert [path.name for path in folder.iterdir()] == ["dataset.toml"]
    with pytest.raises(ArchiveError, match="is a file; name a folder"):
        write(folder / "dataset.toml", make_wheel(tmp_path))


def test_rejects_wheel_with_another_hash(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="expected SHA-256 9c9948202011.*, found"):
        write_ml_100k(tmp_path / "data", make_wheel(tmp_path))
    assert not (tmp_path / "data").exists()


def test_rejects_wheel_with_other_contents(tmp_path: Path) -> None:
    odd = make_wheel(tmp_path / "a", user=["user:token\tage:token", "1\t2"])
    with pytest.raises(ArchiveError, match="ml-100k.user has other columns: user:token, age:token"):
        write(tmp_path / "data", odd)
    text = tmp_path / "text.whl"
    text.write_text("not a zip", encoding="utf-8")
    with pytest.raises(ArchiveError, match="is not the wheel that holds MovieLens-100K"):
        write(tmp_path / "data", text)
    with pytest.raises(ArchiveError, match=r"gone\.whl cannot be read"):
        write_ml_100k(tmp_path / "data", tmp_path / "gone.whl")


def test_failed_download_suggests_the_wheel_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ArchiveError, match="pip could not download recbole==1.2.1.*\n.*pass it with --wheel"):
        write_ml_100k(tmp_path / "data")
