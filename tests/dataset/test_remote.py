"""Logs in a store are read as local ones: objects and prefixes, by a server that speaks as S3 does."""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from typer.testing import CliRunner

from msd.dataset.command import app
from msd.dataset.load import load_dataset
from tests.dataset.logs import log
from tests.operations.fetch.conftest import Keeper, keeper


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeper]:
    """A store whose bucket `logs` holds a log, and its parts below a prefix."""
    for name in os.environ:
        if name.upper().startswith("AWS_") or "_PROXY" in name.upper():
            monkeypatch.delenv(name)
    with keeper() as kept:
        monkeypatch.setenv("AWS_ENDPOINT_URL", kept.url)
        keys = {f"day={day}/part.csv": log().slice(day * 80, 80).write_csv().encode() for day in range(3)}
        kept.files["/logs/log.csv"] = log().write_csv().encode()
        kept.files |= {f"/logs/parts/{quote(key)}": content for key, content in keys.items()}
        found = "".join(
            f"<Contents><Key>parts/{key}</Key><LastModified>2024-05-01T00:00:00.000Z</LastModified>"
            f"<ETag>1</ETag><Size>{len(content)}</Size></Contents>"
            for key, content in keys.items()
        )
        kept.files["/logs"] = f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode()
        yield kept


def init(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["init", *map(str, arguments)])
    return result.exit_code, result.output + str(result.exception or "")


def test_reads_objects_and_prefixes(store: Keeper, tmp_path: Path) -> None:
    for place, name in (("s3://logs/log.csv", "whole"), ("s3://logs/parts/", "parts")):
        code, output = init(place, tmp_path / name)
        assert code == 0, output
    whole, parts = (load_dataset(tmp_path / name).events for name in ("whole", "parts"))
    assert whole.height == 240
    assert whole.equals(parts)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("s3://logs/gone.csv", "s3://logs/gone.csv: cannot be read: nothing is at this address"),
        ("s3://logs/", "names no object; expected s3://BUCKET/KEY, or s3://BUCKET/PREFIX/"),
    ],
)
def test_refuses_place_with_reason(store: Keeper, tmp_path: Path, place: str, message: str) -> None:
    code, output = init(place, tmp_path / "out")
    assert code != 0
    assert message in output
    assert not (tmp_path / "out").exists()
