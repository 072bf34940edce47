"""Keys: what is kept of them, what a file of them may say, and that a file which cannot be used changes nothing."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.contract.errors import MsdError
from service.http.keys import KeyEntry, KeyFile, KeyRing, KeysError, new_key, read_keys
from service.telemetry.metrics import Metrics
from service.watched_files import WatchedFiles

HASH = "0" * 64


def entry(**changes: Any) -> dict[str, Any]:  # noqa: ANN401
    """An entry of a file with some parts changed."""
    return {"name": "a", "scopes": ["score"], "sha256": HASH, **changes}


def write(path: Path, *entries: dict[str, Any]) -> None:
    """A file of keys that takes the place of what was there in one step."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"keys": entries}))
    os.replace(temporary, path)


def test_a_key_is_found_and_nothing_else() -> None:
    key, kept = new_key("ads", ("score", "events"), None)
    other, of_other = new_key("ops", ("admin",), None)
    ring = KeyRing(KeyFile(keys=(kept, of_other)))

    found = ring.find(key.encode())
    assert found is not None
    assert (found.name, sorted(found.scopes)) == ("ads", ["events", "score"])
    assert ring.find(other.encode()) is not None
    for wrong in (key[:-1], key + "x", key.upper(), "", kept.sha256, f" {key}"):
        assert ring.find(wrong.encode()) is None


def test_keys_differ_and_are_long() -> None:
    keys = {new_key("ads", ("score",), None)[0] for _ in range(100)}

    assert len(keys) == 100
    assert min(map(len, keys)) >= 40


def test_a_hash_that_begins_alike_is_not_the_key() -> None:
    """The look-up is by the hash's beginning; the whole of it decides."""
    digest = hashlib.sha256(b"guess").hexdigest()
    ring = KeyRing(KeyFile(keys=(KeyEntry(name="a", scopes=("score",), sha256=digest[:32] + HASH[32:]),)))

    assert ring.find(b"guess") is None


@given(st.binary(max_size=400))
def test_no_other_bytes_are_a_key(guess: bytes) -> None:
    ring = KeyRing(KeyFile(keys=(new_key("a", ("score",), None)[1],)))

    assert ring.find(guess) is None


SECRET = "msd_hunter2"
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file: Invalid JSON"),
    "half-written": (json.dumps({"keys": [entry()]}).encode()[:-9], "the file: Invalid JSON"),
    "a list": (b"[]", "the file: "),
    "no keys": (b'{"keys": []}', "keys: "),
    "another format": (json.dumps({"format_version": 2, "keys": [entry()]}).encode(), "format_version: "),
    "unknown scope": (json.dumps({"keys": [entry(scopes=["root"])]}).encode(), "keys.0.scopes.0: "),
    "no scope": (json.dumps({"keys": [entry(scopes=[])]}).encode(), "keys.0.scopes: "),
    "the key itself": (json.dumps({"keys": [entry(sha256=SECRET)]}).encode(), "keys.0.sha256: "),
    "an end without zone": (json.dumps({"keys": [entry(not_after="2027-01-01T00:00:00")]}).encode(), "not_after: "),
    "an end that is none": (json.dumps({"keys": [entry(not_after=SECRET)]}).encode(), "keys.0.not_after: "),
    "one name twice": (json.dumps({"keys": [entry(), entry(sha256="1" * 64)]}).encode(), "two keys have the same name"),
    "one key twice": (json.dumps({"keys": [entry(), entry(name="b")]}).encode(), "two keys have the same sha256"),
    "not utf-8": (b'{"keys": "\xff"}', "the file: "),
    "deep": (b"[" * 100_000, "the file: "),
    "huge": (b" " * (2**22 + 1), "larger than"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_none_is_refused_by_its_place(tmp_path: Path, name: str) -> None:
    content, said = BAD[name]
    (tmp_path / "keys.json").write_bytes(content)

    with pytest.raises(KeysError) as raised:
        read_keys(tmp_path / "keys.json")
    assert said in str(raised.value)
    assert "keys.json" in str(raised.value)
    assert SECRET not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_a_folder_or_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="No such file or directory; `msd key new`"):
        read_keys(tmp_path / "keys.json")
    with pytest.raises(KeysError, match="Is a directory"):
        read_keys(tmp_path)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b'{"keys": [')])
def test_a_file_that_goes_bad_leaves_what_was_read(
    tmp_path: Path, damage: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    path, metrics = tmp_path / "keys.json", Metrics()
    write(path, entry(name="first"))
    watched = WatchedFiles("keys", [path], lambda: read_keys(path), metrics.keys_stale)
    first = watched.value
    watched.look()
    assert watched.value is first

    damage(path)
    watched.look()
    watched.look()
    assert watched.value is first
    assert b"msd_keys_stale 1.0" in metrics.exposition()
    assert capsys.readouterr().out.count("what was read before stays in use") == 1

    write(path, entry(name="second"))
    watched.look()
    assert watched.value is not first
    assert b"msd_keys_stale 0.0" in metrics.exposition()


def test_what_is_no_file_at_first_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with pytest.raises(MsdError):
        WatchedFiles("keys", [path], lambda: read_keys(path), Metrics().keys_stale)
