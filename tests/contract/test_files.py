"""A file is whole or absent, and what was there before survives a failure."""

import hashlib
import os
from pathlib import Path

import pytest

from msd.contract.files import atomic_file, sha256_file, write_bytes_atomic, write_text_atomic


def test_a_file_and_its_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a/b/text"
    write_text_atomic(path, "straße\n")

    assert path.read_bytes() == "straße\n".encode()
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "data"
    for data in (b"old and long", b"new"):
        write_bytes_atomic(path, data)

    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def fail_half_way(path: Path) -> None:
    """Writes that never end."""
    with atomic_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"old")

    with pytest.raises(KeyboardInterrupt):
        fail_half_way(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_name_is_taken_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with atomic_file(path) as file:
        file.write(b"half")
        file.flush()
        assert not path.exists()

    assert path.read_bytes() == b"half"


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
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


def test_hashes(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"x" * 100_000)

    assert sha256_file(path) == hashlib.sha256(b"x" * 100_000).hexdigest()
