"""Files and bundles are written whole or not at all."""

import hashlib
import os
from pathlib import Path

import pytest

from msd.contract.bundle import MANIFEST, RANKER, new_bundle, open_bundle
from msd.contract.errors import BundleError
from msd.contract.files import atomic_file, sha256_file, write_bytes_atomic, write_text_atomic
from tests.contract.examples import SCHEMA


def test_file_and_its_folders_are_created_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a/b/text"
    write_bytes_atomic(path, b"old and long")
    write_text_atomic(path, "straße\n")

    assert path.read_bytes() == "straße\n".encode()
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]
    assert sha256_file(path) == hashlib.sha256("straße\n".encode()).hexdigest()


def fail_half_way(path: Path) -> None:
    with atomic_file(path) as file:
        file.write(b"half")
        file.flush()
        assert path.read_bytes() == b"old"
        raise KeyboardInterrupt


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"old")

    with pytest.raises(KeyboardInterrupt):
        fail_half_way(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    write_text_atomic(pipe, "{}\n")

    assert os.read(reader, 10) == b"{}\n"
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]
    os.close(reader)
    with pytest.raises(OSError, match="No such device"):  # nobody reads it any more
        write_text_atomic(pipe, "{}\n")


def leave_half_way(folder: Path) -> None:
    with new_bundle(folder) as temporary:
        (temporary / MANIFEST).write_text("half")
        raise KeyboardInterrupt


def test_new_bundle_replaces_another_at_once_or_not_at_all(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        leave_half_way(folder)
    assert open_bundle(folder).schema == SCHEMA
    assert list(folder.parent.iterdir()) == [folder]
    (tmp_path / "current").symlink_to(folder)
    with new_bundle(tmp_path / "current") as temporary:
        (temporary / MANIFEST).write_text("new")
        assert (folder / RANKER).exists()

    assert [path.name for path in folder.iterdir()] == [MANIFEST]
    assert folder.stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "current").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, "current"}


def test_new_bundle_takes_a_missing_or_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "deep/new"):
        with new_bundle(folder) as temporary:
            (temporary / MANIFEST).touch()
        assert [path.name for path in folder.iterdir()] == [MANIFEST]


def test_rejects_to_replace_other_things(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")

    for taken in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(BundleError, match="exists and is not a bundle"), new_bundle(taken):
            raise AssertionError("the block does not run")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
