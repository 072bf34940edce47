"""A bundle opens only if it is, to the byte, what was exported; the mark of a verification saves hashing and hides no
change."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import to_json

from msd.contract import bundle as bundle_module
from msd.contract.bundle import (
    GOLDENS,
    MANIFEST,
    MARKER,
    RANKER,
    REQUIRED,
    ROWS,
    Bundle,
    Manifest,
    Pause,
    bundle_id_of,
    file_entries,
    open_bundle,
    write_manifest,
)
from msd.contract.errors import BundleError
from msd.contract.files import sha256_file
from msd.contract.precision import Figures, PrecisionRecord, Tried
from tests.bundles.factory import reseal
from tests.contract.examples import SCHEMA, any_json, flip, make_folder


def edit_manifest(folder: Path, **changes: object) -> None:
    """Change entries of the manifest without sealing it again."""
    document = json.loads((folder / MANIFEST).read_text("utf-8"))
    (folder / MANIFEST).write_text(json.dumps({**document, **changes}), "utf-8")


def test_bundle_opens_as_written(folder: Path, whole_bundle: Bundle) -> None:
    opened = open_bundle(folder)

    assert opened.manifest == whole_bundle.manifest
    assert opened.schema == SCHEMA
    assert opened.bundle_id == bundle_id_of(SCHEMA, {RANKER: sha256_file(folder / RANKER)})
    assert opened.path(RANKER) == folder / RANKER
    assert set(opened.manifest.files) == set(REQUIRED)
    # The manifest of an earlier release has no precision, nor has what is hashed: its bundle opens, in fp32.
    document = json.loads((folder / MANIFEST).read_text("utf-8"))
    assert "precision" not in document
    assert hashlib.sha256(to_json({**document, "sha256": ""})).hexdigest() == document["sha256"]
    precision = opened.precision
    assert (precision.asked, precision.chosen, precision.passed) == ("fp32", "fp32", ("fp32",))


def test_precision_is_kept_with_its_figures(folder: Path) -> None:
    figures = Figures(auc=0.7, logloss=0.5, ece=0.01, predicted_over_observed=1.0, microseconds=900.0)
    tried = {"bf16": Tried(figures=figures, auc_worst=0.0001, logloss_worst=0.0), "int8": Tried(refused="too slow")}
    record = PrecisionRecord.model_validate({"asked": "auto", "chosen": "bf16", "candidates": 200, "tried": tried})
    reseal(folder, precision=record)

    assert open_bundle(folder).precision == record
    assert record.passed == ("fp32", "bf16")
    reseal(folder, precision=None)
    assert "precision" not in json.loads((folder / MANIFEST).read_text("utf-8"))
    edit_manifest(folder, precision={"chosen": "fp8"})
    with pytest.raises(BundleError, match="precision.chosen: should be 'fp32', 'int8' or 'bf16'"):
        open_bundle(folder)


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, "its SHA-256 differs from the manifest's"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"has \d+ bytes, not \d+"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), r"has \d+ bytes, not \d+"),
        (lambda path: path.unlink(), "missing; copy the bundle again"),
        (make_folder, "missing; copy the bundle again"),
    ],
)
def test_rejects_damaged_file(folder: Path, name: str, damage: Callable[[Path], object], message: str) -> None:
    damage(folder / name)

    with pytest.raises(BundleError, match=message) as raised:
        open_bundle(folder)
    assert str(folder / name) in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no bundle here"),
        (b"", "not readable as JSON"),
        (b"\xff", "not readable as JSON"),
        (b"[" * 99_999, "not readable as JSON"),
        (b"[]", "bundle format None"),
        (b"{}", "bundle format None"),
        (b'{"format_version": 4}', "bundle_id: is missing"),
        ({"format_version": 3}, "bundle format 3, expected 4; export it again"),
        ({"format_version": "4"}, "bundle format '4'"),
        ({"owner": "me"}, "owner: is not known here"),
        ({"model_version": "x"}, "do not match its own hash"),
        ({"feature_schema": {"fields": []}}, "exactly one sequence"),
        ({"heads": []}, "heads: should have at least 1 item"),
        ({"metrics": {"auc": "\ud800"}}, "surrogates"),
    ],
)
def test_rejects_other_manifests(folder: Path, content: bytes | dict[str, object] | None, message: str) -> None:
    if isinstance(content, dict):
        edit_manifest(folder, **content)
    else:
        (folder / MANIFEST).write_bytes(content or b"")
    if content is None:
        (folder / MANIFEST).unlink()
    with pytest.raises(BundleError, match=message):
        open_bundle(folder)
    (folder / MANIFEST).touch()
    make_folder(folder / MANIFEST)
    with pytest.raises(BundleError, match="Is a directory"):
        open_bundle(folder)


@settings(max_examples=100)
@given(st.sampled_from(sorted(Manifest.model_fields)), any_json(st.text(max_size=5)))
def test_any_manifest_opens_or_is_rejected(folder: Path, whole_bundle: Bundle, key: str, value: object) -> None:
    shutil.copy(whole_bundle.folder / MANIFEST, folder / MANIFEST)
    edit_manifest(folder, **{key: value})

    try:
        assert open_bundle(folder).manifest == whole_bundle.manifest
    except BundleError:
        assert value != getattr(whole_bundle.manifest, key)


@pytest.mark.parametrize(
    "name", ["../ranker.onnx", "/etc/passwd", "a/b", "notes.txt", MANIFEST, MARKER, "", ".", "\x00"]
)
def test_rejects_unknown_file_names(folder: Path, name: str) -> None:
    entries = {**file_entries(folder), name: file_entries(folder)[RANKER]}
    reseal(folder, files={file: entry.model_dump() for file, entry in entries.items()})

    with pytest.raises(BundleError, match="lists an unknown file"):
        open_bundle(folder)


@pytest.mark.parametrize("name", REQUIRED)
def test_rejects_manifest_without_a_required_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    if name == RANKER:
        reseal(folder, bundle_id=bundle_id_of(SCHEMA, {}))
    else:
        reseal(folder)

    with pytest.raises(BundleError, match=f"lists no {name}"):
        open_bundle(folder)


def test_rejects_other_weights_under_the_same_bundle_id(folder: Path) -> None:
    """The id says which rows belong to the graph: it cannot be kept when the graph is exchanged."""
    flip(folder / RANKER)
    reseal(folder)

    with pytest.raises(BundleError, match="bundle_id does not fit its graphs and schema"):
        open_bundle(folder)


def test_goldens_and_unlisted_files_do_not_change_the_bundle_id(folder: Path, whole_bundle: Bundle) -> None:
    (folder / GOLDENS).write_bytes(b"")
    (folder / "notes.txt").write_text("mine")
    reseal(folder)

    assert open_bundle(folder).bundle_id == whole_bundle.bundle_id
    assert "notes.txt" not in open_bundle(folder).manifest.files


def test_bundle_without_rows_opens_if_the_rest_is_whole(folder: Path) -> None:
    for name in ROWS.values():
        (folder / name).unlink()
    assert open_bundle(folder, rows=False).schema == SCHEMA
    with pytest.raises(BundleError, match=r"users\.rows: missing"):
        open_bundle(folder)
    flip(folder / GOLDENS)
    with pytest.raises(BundleError, match="its SHA-256"):
        open_bundle(folder, rows=False)


def test_bundle_id_is_of_weights_and_schema() -> None:
    weights = {"a": "1" * 64, "b": "2" * 64}
    bundle_id = bundle_id_of(SCHEMA, weights)

    assert bundle_id == "3e6cbbeb3d9d871cb0f19a8274bad620"
    assert bundle_id_of(SCHEMA, dict(reversed(weights.items()))) == bundle_id
    assert bundle_id_of(SCHEMA, {**weights, "b": "3" * 64}) != bundle_id
    assert bundle_id_of(SCHEMA.model_validate({"fields": SCHEMA.fields}), weights) != bundle_id


def test_sealing_is_reproducible(folder: Path, whole_bundle: Bundle) -> None:
    awkward: dict[str, Any] = {"auc": 0.1 + 0.2, "none": None, "many": [1, 2.0, 1e300, -0.0], "words": "ß😀", "": {}}
    manifest = whole_bundle.manifest.model_copy(update={"metrics": awkward})
    write_manifest(folder, manifest)
    first = (folder / MANIFEST).read_bytes()
    write_manifest(folder, open_bundle(folder).manifest)

    assert (folder / MANIFEST).read_bytes() == first
    assert open_bundle(folder).manifest.metrics == awkward


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


def test_copied_mark_is_ignored_and_a_damaged_bundle_leaves_none(whole_bundle: Bundle, folder: Path) -> None:
    """The copy has the mark, the sizes and the times; only the bytes are wrong."""
    before = (folder / RANKER).stat()
    flip(folder / RANKER)
    os.utime(folder / RANKER, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert (folder / MARKER).read_bytes() == (whole_bundle.folder / MARKER).read_bytes()
    with pytest.raises(BundleError, match="its SHA-256"):
        open_bundle(folder)
    (folder / MARKER).unlink()
    with pytest.raises(BundleError):
        open_bundle(folder)
    assert not (folder / MARKER).exists()


def test_mark_without_rows_does_not_cover_rows(folder: Path) -> None:
    open_bundle(folder, rows=False)
    flip(folder / ROWS["user"])

    with pytest.raises(BundleError, match=r"users\.rows: its SHA-256"):
        open_bundle(folder)


def test_read_only_folder_opens(folder: Path) -> None:
    (folder / MARKER).unlink()
    folder.chmod(0o555)
    try:
        assert open_bundle(folder).schema == SCHEMA
    finally:
        folder.chmod(0o755)
