"""The CoLLM split as a dataset and knowledge folder; files that are missing or wrong are named, with what is due."""

from pathlib import Path

import polars as pl
import pytest

from lab.benchmark.collm import prepare
from lab.benchmark.protocol import BenchmarkError, Folders, write_knowledge
from lab.data.collm_ml_1m import write_collm_ml_1m
from msd.dataset.load import load_dataset
from msd.dataset.split import Part, split_events
from msd.teachers.knowledge import Knowledge, KnowledgeBase, TeachRecord, load_knowledge, load_record
from tests.dataset.tiny import write_tiny_dataset
from tests.lab.benchmark.made import ITEMS, Steps, write_collm
from tests.lab.data.movielens import ROWS, write_archive


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_collm(tmp_path / "data")


def _prepare(data: Path, work: Path) -> tuple[Folders, Steps]:
    steps = Steps()
    return prepare(data, work, steps), steps


def test_files_become_a_dataset_with_their_split(data: Path, tmp_path: Path) -> None:
    folders, _ = _prepare(data, tmp_path / "work")
    dataset = load_dataset(folders.dataset)
    parts = split_events(dataset.events, dataset.config)
    for part, name in ((Part.TRAIN, "train"), (Part.VALID, "valid"), (Part.TEST, "test")):
        own = dataset.events.filter(parts == part).select("user_id", "item_id", "at", "label").sort(pl.all())
        given = pl.read_parquet(data / f"{name}.parquet").select(
            pl.col("user_id").cast(pl.String), pl.col("item_id").cast(pl.String), at="timestamp", label="label"
        )
        assert own.equals(given.sort(pl.all()))
    assert not (parts == Part.WINDOW).any()
    first = dataset.items.row(0, named=True)
    assert first["title"] == "The Film 1 (1961)"
    assert first["text"] == f"The Film 1 (1961). Genres: {first['genres'][0]}."
    assert (first["year"], first["decade"]) == (1961.0, "1960s")
    assert dataset.users.is_empty()


def test_text_becomes_two_pieces_of_knowledge(data: Path, tmp_path: Path) -> None:
    folders, _ = _prepare(data, tmp_path / "work")
    base, record = load_knowledge(folders.knowledge), load_record(folders.knowledge)
    assert (record.items, record.users) == (len(base.items), len(base.users)) == (ITEMS, 0)
    assert record.teacher == "unknown"
    given = pl.read_parquet(data / "items.parquet")["knowledge"][4]
    assert f"{base.items['5'].explicit} {base.items['5'].implicit}" == given.strip()
    assert base.items["5"].explicit.endswith("of the year.")


def test_prepared_folders_stay_until_the_data_changes(data: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    folders, steps = _prepare(data, work)
    assert steps[-1] == ("reading the data", 1, 1)
    before = (folders.dataset / "events.parquet").stat().st_mtime_ns
    assert _prepare(data, work)[1] == []
    assert (folders.dataset / "events.parquet").stat().st_mtime_ns == before

    fingerprint = load_dataset(folders.dataset).fingerprint
    write_collm(data, seed=1)
    assert _prepare(data, work)[1]
    assert load_dataset(folders.dataset).fingerprint != fingerprint


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("items", None, r"the column year is missing; .* are due, and there are item_id, title,"),
        ("train", pl.lit(None).cast(pl.Int64).alias("user_id"), r"train.parquet, row 1: user_id is missing"),
        ("items", pl.lit("a film").alias("genres"), r"items.parquet: a column has another type than .*genres"),
        (
            "items",
            pl.when(pl.col("item_id") == 3).then(pl.lit("  ")).otherwise("knowledge").alias("knowledge"),
            r"items.parquet, row 3: knowledge is missing",
        ),
        ("test", pl.lit("yes").alias("label"), r"test.parquet: a column has another type than .*label"),
        ("valid", pl.lit(0).alias("label"), r"valid.parquet: labels must include both 0 and 1, but are \[0"),
        ("train", pl.col("label") * 4.5, r"train.parquet: labels must include both 0 and 1, but are \[0.0, 4.5\]"),
    ],
)
def test_wrong_column_or_file_is_named(
    data: Path, tmp_path: Path, file: str, change: pl.Expr | None, message: str
) -> None:
    path = data / f"{file}.parquet"
    table = pl.read_parquet(path)
    (table.drop("year") if change is None else table.with_columns(change)).write_parquet(path)
    with pytest.raises(BenchmarkError, match=message):
        _prepare(data, tmp_path / "work")
    path.write_text("user_id,item_id\n1,2\n")
    with pytest.raises(BenchmarkError, match=rf"{file}.parquet: cannot be read as Parquet"):
        _prepare(data, tmp_path / "work")
    path.unlink()
    with pytest.raises(BenchmarkError, match=rf"{file}.parquet: no such file; DATASET is the folder with train"):
        _prepare(data, tmp_path / "work")


def test_knowledge_beside_the_converted_archive_is_used_and_other_datasets_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_collm_ml_1m(data, write_archive(tmp_path), ROWS)
    with pytest.raises(BenchmarkError, match=f"holds no finished knowledge; run `msd teach {data} {data}/knowledge`"):
        _prepare(data, tmp_path / "work")
    base = KnowledgeBase({"1": Knowledge(id="1", explicit="A film.", implicit="A war.")}, {})
    record = TeachRecord(teacher="mine", prompt_version="1", dataset="collm-ml-1m", items=0, users=0)
    knowledge = write_knowledge(data / "knowledge", base, record)

    assert _prepare(data, tmp_path / "work")[0] == Folders(data, knowledge)
    assert load_knowledge(knowledge) == base
    assert load_record(knowledge) == record.model_copy(update={"items": 1})
    tiny = write_tiny_dataset(tmp_path / "tiny")
    with pytest.raises(BenchmarkError, match="holds the dataset 'tiny', not what `msd lab data ml-1m` writes"):
        _prepare(tiny, tmp_path / "work")
