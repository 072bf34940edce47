"""A bundle opens only if it is, to the byte, what was exported."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic_core import to_json

from msd.contract.bundle import (
    GOLDENS,
    MANIFEST,
    MARKER,
    RANKER,
    REQUIRED,
    ROWS,
    Bundle,
    Manifest,
    bundle_id_of,
    file_entries,
    open_bundle,
    write_manifest,
)
from msd.contract.errors import BundleError
from msd.contract.files import sha256_file
from msd.contract.precision import Figures, PrecisionRecord, Tried
from tests.bundles.factory import reseal
from tests.contract.examples import SCHEMA, flip, make_folder

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def edit_manifest(folder: Path, **changes: object) -> None:
    """Changes entries of the manifest and does not seal it again."""
    document = json.loads((folder / MANIFEST).read_text("utf-8"))
    (folder / MANIFEST).write_text(json.dumps({**document, **changes}), "utf-8")


def test_bundle_opens_as_written(folder: Path, whole_bundle: Bundle) -> None:
    opened = open_bundle(folder)

    assert opened.manifest == whole_bundle.manifest
    assert opened.schema == SCHEMA
    assert opened.bundle_id == bundle_id_of(SCHEMA, {RANKER: sha256_file(folder / RANKER)})
    assert opened.path(RANKER) == folder / RANKER
    assert set(opened.manifest.files) == set(REQUIRED)


def test_a_manifest_from_before_precisions_keeps_its_hash(folder: Path) -> None:
    """Its text has no precision, nor has what is hashed: bundles of earlier releases open, in fp32."""
    document = json.loads((folder / MANIFEST).read_text("utf-8"))
    assert "precision" not in document
    assert hashlib.sha256(to_json({**document, "sha256": ""})).hexdigest() == document["sha256"]
    precision = open_bundle(folder).precision
    assert (precision.asked, precision.chosen, precision.runtime) == ("fp32", "fp32", "onnxruntime")


def test_a_precision_is_kept_with_its_figures(folder: Path) -> None:
    figures = Figures(auc=0.7, logloss=0.5, ece=0.01, predicted_over_observed=1.0, microseconds=900.0)
    tried = {"bf16": Tried(figures=figures, auc_worst=0.0001, logloss_worst=0.0), "int8": Tried(refused="too slow")}
    record = PrecisionRecord.model_validate({"asked": "auto", "chosen": "bf16", "candidates": 200, "tried": tried})
    reseal(folder, precision=record)

    assert open_bundle(folder).precision == record
    assert record.runtime == "openvino"
    reseal(folder, precision=None)
    assert "precision" not in json.loads((folder / MANIFEST).read_text("utf-8"))
    edit_manifest(folder, precision={"chosen": "fp8"})
    with pytest.raises(BundleError, match="precision.chosen: should be 'fp32', 'int8' or 'bf16'"):
        open_bundle(folder)


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flip, "its SHA-256 differs from the manifest's"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"has \d+ bytes, not \d+"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), r"has \d+ bytes, not \d+"),
        (lambda path: path.write_bytes(b""), "has 0 bytes"),
        (lambda path: path.unlink(), "missing; copy the bundle again"),
        (make_folder, "missing; copy the bundle again"),
    ],
)
def test_rejects_damaged_file(folder: Path, name: str, damage: Callable[[Path], object], said: str) -> None:
    damage(folder / name)

    with pytest.raises(BundleError, match=said) as raised:
        open_bundle(folder)
    assert str(folder / name) in str(raised.value)


MANIFESTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "none": (lambda folder: (folder / MANIFEST).unlink(), "no bundle here"),
    "empty": (lambda folder: (folder / MANIFEST).write_bytes(b""), "not readable as JSON"),
    "not utf-8": (lambda folder: (folder / MANIFEST).write_bytes(b"\xff"), "not readable as JSON"),
    "nested without end": (lambda folder: (folder / MANIFEST).write_bytes(b"[" * 99_999), "not readable as JSON"),
    "a list": (lambda folder: (folder / MANIFEST).write_bytes(b"[]"), "bundle format None"),
    "no version": (lambda folder: (folder / MANIFEST).write_bytes(b"{}"), "bundle format None"),
    "nothing but a version": (
        lambda folder: (folder / MANIFEST).write_bytes(b'{"format_version": 3}'),
        "bundle_id: is missing",
    ),
    "a later version": (
        lambda folder: edit_manifest(folder, format_version=4),
        "bundle format 4, expected 3",
    ),
    "version in words": (lambda folder: edit_manifest(folder, format_version="3"), "bundle format '3'"),
    "an unknown entry": (lambda folder: edit_manifest(folder, owner="me"), "owner: is not known here"),
    "a changed entry": (lambda folder: edit_manifest(folder, model_version="x"), "do not match its own hash"),
    "a changed schema": (lambda folder: edit_manifest(folder, feature_schema={"fields": []}), "exactly one sequence"),
    "no heads": (lambda folder: edit_manifest(folder, heads=[]), "heads: should have at least 1 item"),
    "half of a surrogate pair": (lambda folder: edit_manifest(folder, metrics={"auc": "\ud800"}), "surrogates"),
    "a directory": (lambda folder: make_folder(folder / MANIFEST), "Is a directory"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_rejects_other_manifests(folder: Path, name: str) -> None:
    damage, said = MANIFESTS[name]

    damage(folder)

    with pytest.raises(BundleError, match=said):
        open_bundle(folder)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(Manifest.model_fields)), JSON)
def test_any_manifest_opens_or_is_rejected(folder: Path, whole_bundle: Bundle, key: str, value: object) -> None:
    shutil.copy(whole_bundle.folder / MANIFEST, folder / MANIFEST)
    edit_manifest(folder, **{key: value})

    try:
        assert open_bundle(folder).manifest == whole_bundle.manifest
    except BundleError:
        assert value != getattr(whole_bundle.manifest, key)


@pytest.mark.parametrize("name", ["../ranker.onnx", "/etc/passwd", "a/b", "notes.txt", MANIFEST, MARKER, "", "."])
def test_rejects_unknown_file_names(folder: Path, name: str) -> None:
    entries = {**file_entries(folder), name: file_entries(folder)[RANKER]}
    reseal(folder, files={file: entry.model_dump() for file, entry in entries.items()})

    with pytest.raises(BundleError, match="lists an unknown file"):
        open_bundle(folder)


@pytest.mark.parametrize("name", REQUIRED)
def test_rejects_manifest_without_a_required_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    if name == RANKER:
        weights: dict[str, str] = {}
        reseal(folder, bundle_id=bundle_id_of(SCHEMA, weights))
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

    assert bundle_id == "486942f4d0530e0d0ced4ff9693f4f80"
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
