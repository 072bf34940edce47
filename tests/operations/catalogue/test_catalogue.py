"""Shards become parts: the same rows by any number of processes, each made once, and what is wrong named by place."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from msd.contract.bundle import ENCODER, TOKENIZER, Bundle
from msd.contract.errors import MsdError
from msd.contract.rows import has_semantic
from native.columns import encode_record
from operations.catalogue.manifest import CATALOGUE, CatalogueError, open_catalogue
from tests.bundles.encoder_graph import POISON, encode_alone
from tests.operations.catalogue.made import COLUMNS, cut, flip, make, records_of, write_items, write_shard
from tests.service.live import ROOT, run_msd, wait_until


def test_row_has_encoded_features_vector_and_no_counts(cold_bundle: Bundle, tmp_path: Path) -> None:
    write_shard(tmp_path / "items" / "a.parquet")
    done = make(tmp_path / "items", cold_bundle, tmp_path / "out")
    rows = records_of(cold_bundle, tmp_path / "out" / "a.parquet")

    assert (done.rows, done.vectors, done.parts, done.parts_made) == (4, 2, 1, 1)
    assert [bool(has_semantic(row)[0]) for row in rows.values()] == [True, False, False, True]
    categorical, numeric = encode_record(
        cold_bundle.schema, "item", {"item_id": "n0", "category": "games", "genres": ("g1", "g2", "g3"), "price": 9.5}
    )
    assert np.array_equal(rows["n0"]["categorical"], categorical)
    assert np.array_equal(rows["n0"]["numeric"], numeric)
    graph, tokenizer = cold_bundle.path(ENCODER).read_bytes(), Tokenizer.from_file(str(cold_bundle.path(TOKENIZER)))
    due = encode_alone(graph, tokenizer, "a tent for two").astype(np.float16)
    for one in ("n0", "n3"):
        assert (np.abs(rows[one]["semantic"][0] - due) <= np.spacing(np.abs(due))).all()
    assert not rows["n1"]["semantic"].any()
    for name in ("impressions", "clicks", "as_of"):
        assert [row[name][0] for row in rows.values()] == [0, 0, 0, 0]


def test_several_processes_make_equal_rows(cold_bundle: Bundle, tmp_path: Path) -> None:
    items = write_items(tmp_path / "items")
    assert make(items, cold_bundle, tmp_path / "one").parts_made == 3
    assert make(items, cold_bundle, tmp_path / "two", processes=2).rows == 12
    for part in sorted((tmp_path / "one").glob("*.parquet")):
        one, two = (records_of(cold_bundle, folder / part.name) for folder in (tmp_path / "one", tmp_path / "two"))
        assert one.keys() == two.keys()
        for name in ("categorical", "numeric", "semantic", "flags"):
            assert all(np.array_equal(one[key][name], two[key][name]) for key in one)

    write_shard(items / "001.parquet", {"id": ["a"], "price": ["9"]})
    with pytest.raises(CatalogueError, match=r"001\.parquet, row 1: price should be a number"):
        make(items, cold_bundle, tmp_path / "three", processes=2)


def test_resumes_with_missing_parts(cold_bundle: Bundle, tmp_path: Path) -> None:
    items, out = write_items(tmp_path / "items"), tmp_path / "out"
    write_shard(items / "001.parquet", {"id": ["x", None]})
    with pytest.raises(CatalogueError, match=r"001\.parquet, row 2: id should be a string or a whole number"):
        make(items, cold_bundle, out)
    assert [path.name for path in out.iterdir()] == ["000.parquet"]
    kept = (out / "000.parquet").stat().st_mtime_ns

    write_shard(items / "001.parquet", {"id": ["x", "2"]})
    done = make(items, cold_bundle, out)
    assert (done.parts, done.parts_made, done.rows) == (3, 2, 10)
    assert (out / "000.parquet").stat().st_mtime_ns == kept
    assert open_catalogue(out).rows == 10

    write_shard(items / "002.parquet", {"id": ["another"]})
    done = make(items, cold_bundle, out)
    assert (done.parts_made, done.rows) == (1, 7)
    assert list(records_of(cold_bundle, out / "002.parquet")) == ["another"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["a", "a"]}, r"000\.parquet, row 2: id 'a' occurs twice"),
        ({"id": ["a", ""]}, "row 2: id should have from 1 to 256 characters"),
        ({"id": ["a", "b\0"]}, "row 2: id should have from 1 to 256 characters, none of them NUL"),
        ({"id": ["a"], "text": [7]}, "row 1: text should be a string"),
        ({"id": ["a"], "text": ["x" * 10_001]}, "row 1: text should have at most 10000 characters"),
        ({"id": ["a", "b"], "text": ["fine", POISON]}, "row 2: text: .* gives numbers that are not finite"),
        ({"id": ["a", "b"], "price": [1.0, float("nan")]}, "row 2: price should be a finite number"),
        ({"id": ["a"], "price": ["9"]}, "row 1: price should be a number"),
        ({"id": ["a"], "genres": ["g1"]}, "row 1: genres should be a list of values"),
        ({"id": ["a"], "genres": [[None]]}, "row 1: genres should be a string or a whole number"),
        ({"text": ["a"]}, r"000\.parquet: has no column 'id'; it has: text"),
        ({"id": ["a"], "prise": [1]}, "knows no item feature 'prise'; there are: id, text, category, genres, price;"),
        ({"id": ["a"], "knowledge": ["a tent"]}, r"has no file for a teacher's words \(words.bin\): distil"),
        ({"id": ["a"], "item_id": ["a"]}, "knows no item feature 'item_id'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)
def test_rejects_invalid_values(columns: Mapping[str, Any], message: str, cold_bundle: Bundle, tmp_path: Path) -> None:
    write_shard(tmp_path / "items" / "000.parquet", columns)
    with pytest.raises(CatalogueError, match=message):
        make(tmp_path / "items", cold_bundle, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_rejects_id_in_two_shards(cold_bundle: Bundle, tmp_path: Path) -> None:
    items = write_items(tmp_path / "items")
    write_shard(items / "001.parquet", {"id": ["other", "s0-3"]})
    with pytest.raises(CatalogueError, match=r"the id 's0-3' occurs twice, in 000\.parquet and in 001\.parquet"):
        make(items, cold_bundle, tmp_path / "out")
    assert not (tmp_path / "out" / CATALOGUE).exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "not readable as Parquet"),
        (lambda path: path.write_bytes(b"id,text\n1,a tent\n"), "not readable as Parquet"),
        (flip, "damaged at row 1"),
    ],
)
def test_rejects_damaged_shard(
    damage: Callable[[Path], object], message: str, cold_bundle: Bundle, tmp_path: Path
) -> None:
    shard = tmp_path / "items" / "a.parquet"
    shard.parent.mkdir()
    pq.write_table(pa.table({"id": [f"item {n * n}" for n in range(9_000)]}), shard, write_page_checksum=True)
    damage(shard)
    with pytest.raises(CatalogueError, match=rf"a\.parquet: {message}"):
        make(shard.parent, cold_bundle, tmp_path / "out")


def test_rejects_unsuitable_folders(cold_bundle: Bundle, other_bundle: Bundle, bundle: Bundle, tmp_path: Path) -> None:
    items, out = write_items(tmp_path / "items", shards=1), tmp_path / "out"
    with pytest.raises(CatalogueError, match="not a folder of Parquet files"):
        make(tmp_path / "nowhere", cold_bundle, out)
    with pytest.raises(CatalogueError, match="holds no \\*.parquet"):
        make(tmp_path, cold_bundle, out)
    with pytest.raises(CatalogueError, match="holds the items; give another folder"):
        make(items, cold_bundle, items)
    with pytest.raises(MsdError, match="has no encoder listed in its manifest"):
        make(items, bundle, out)
    # Items without a text need none.
    write_shard(tmp_path / "plain" / "a.parquet", {name: COLUMNS[name] for name in ("id", "price")})
    assert make(tmp_path / "plain", bundle, tmp_path / "rows") == (bundle.bundle_id, 1, 1, 4, 0)
    make(items, cold_bundle, out)
    with pytest.raises(CatalogueError, match=f"has rows of bundle {cold_bundle.bundle_id}, asked for are"):
        make(items, other_bundle, out)
    write_shard(out / "000.parquet")
    with pytest.raises(CatalogueError, match=r"000\.parquet: not a part of a catalogue"):
        make(items, cold_bundle, out)
    write_shard(out / "older.parquet")
    with pytest.raises(CatalogueError, match=r"older\.parquet: belongs to no shard of .*items; remove it"):
        make(items, cold_bundle, out)


def test_catalogue_command(cold_bundle: Bundle, tmp_path: Path) -> None:
    items, out = write_items(tmp_path / "items", shards=2), tmp_path / "out"
    arguments = ("catalogue", str(items), str(cold_bundle.folder), str(out), "--processes", "1")
    done = run_msd(*arguments)
    assert done.returncode == 0, done.stderr
    assert f"8 rows of bundle {cold_bundle.bundle_id}, 6 of them with a vector, in 2 parts (2 made now)" in done.stdout
    assert json.loads(run_msd(*arguments, "--json").stdout)["parts_made"] == 0


@pytest.mark.parametrize(
    ("processes", "number", "status"),
    [(1, signal.SIGTERM, 143), (2, signal.SIGTERM, 143), (2, signal.SIGINT, 130), (2, signal.SIGKILL, -9)],
)
def test_signal_ends_all_processes_and_leaves_nothing(
    processes: int, number: signal.Signals, status: int, cold_bundle: Bundle, tmp_path: Path
) -> None:
    """SIGINT goes to all processes of a terminal, the others to the first alone. Who is killed clears nothing away."""
    items, out = write_items(tmp_path / "items", shards=processes, rows=100_000), tmp_path / "out"
    command = [sys.executable, "-m", "msd", "catalogue", *map(str, (items, cold_bundle.folder, out))]
    command += ["--processes", str(processes)]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE) as running:
        try:
            wait_until(lambda: len(list(out.glob(".*"))) == processes)
            (os.killpg if number == signal.SIGINT else os.kill)(running.pid, number)
            # All processes write there: it ends with the last of them.
            _, errors = running.communicate(timeout=300)
        except BaseException:
            os.killpg(running.pid, signal.SIGKILL)
            raise
    assert running.returncode == status, errors
    assert number == signal.SIGKILL or not list(out.iterdir())
