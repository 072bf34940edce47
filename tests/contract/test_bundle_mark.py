"""The mark that a verification leaves saves hashing and never hides a change."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msd.contract import bundle as bundle_module
from msd.contract.bundle import MARKER, RANKER, REQUIRED, ROWS, Bundle, Pause, open_bundle
from msd.contract.errors import BundleError
from msd.contract.files import sha256_file
from tests.bundles.factory import reseal
from tests.contract.examples import SCHEMA, flip, make_folder


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []

    def watch(path: Path, pause: Pause = lambda: None) -> str:
        names.append(path.name)
        return sha256_file(path, pause)

    monkeypatch.setattr(bundle_module, "sha256_file", watch)
    return names


def test_untouched_bundle_is_hashed_once(folder: Path, hashed: list[str]) -> None:
    open_bundle(folder)
    assert sorted(hashed) == sorted(REQUIRED)
    mark = (folder / MARKER).read_bytes()
    hashed.clear()
    open_bundle(folder)
    open_bundle(folder, rows=False)
    assert hashed == []
    assert (folder / MARKER).read_bytes() == mark


def reword(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


STALE: dict[str, Callable[[Path], object]] = {
    "a file written again": lambda folder: (folder / ROWS["item"]).write_bytes((folder / ROWS["item"]).read_bytes()),
    "a file with its old times": lambda folder: os.utime(folder / RANKER, ns=(1, (folder / RANKER).stat().st_mtime_ns)),
    "another manifest": lambda folder: reseal(folder, model_version="x"),
    "no mark": lambda folder: (folder / MARKER).unlink(),
    "a mark cut short": lambda folder: (folder / MARKER).write_text((folder / MARKER).read_text()[:-5]),
    "a mark nested without end": lambda folder: (folder / MARKER).write_bytes(b"[" * 99_999),
    "a mark that is not utf-8": lambda folder: (folder / MARKER).write_bytes(b"\xff"),
    "a mark of something else": lambda folder: (folder / MARKER).write_text("true"),
    "a mark of no files": lambda folder: reword(folder / MARKER, lambda mark: mark | {"changed_ns": 3}),
    "a mark of other times": lambda folder: reword(folder / MARKER, lambda mark: mark | {"changed_ns": {RANKER: [1]}}),
    "a mark that is a folder": lambda folder: make_folder(folder / MARKER),
}


@pytest.mark.parametrize("name", STALE)
def test_stale_mark_is_ignored(folder: Path, hashed: list[str], name: str) -> None:
    open_bundle(folder)
    STALE[name](folder)
    hashed.clear()
    open_bundle(folder)

    assert sorted(hashed) == sorted(REQUIRED)


def test_copied_mark_is_ignored(whole_bundle: Bundle, folder: Path) -> None:
    """The copy has the mark, the sizes and the times; only the bytes are wrong."""
    before = (folder / RANKER).stat()
    flip(folder / RANKER)
    os.utime(folder / RANKER, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert (folder / MARKER).read_bytes() == (whole_bundle.folder / MARKER).read_bytes()
    with pytest.raises(BundleError, match="its SHA-256"):
        open_bundle(folder)


def test_mark_without_rows_does_not_cover_rows(folder: Path) -> None:
    open_bundle(folder, rows=False)
    flip(folder / ROWS["user"])

    with pytest.raises(BundleError, match=r"users\.rows: its SHA-256"):
        open_bundle(folder)


def test_damaged_bundle_leaves_no_mark(folder: Path) -> None:
    (folder / MARKER).unlink()
    flip(folder / RANKER)

    with pytest.raises(BundleError):
        open_bundle(folder)
    assert not (folder / MARKER).exists()


def test_read_only_folder_opens(folder: Path) -> None:
    (folder / MARKER).unlink()
    folder.chmod(0o555)
    try:
        assert open_bundle(folder).schema == SCHEMA
    finally:
        folder.chmod(0o755)
