"""Bundles for a service to follow: good ones with different versions, and every kind of bad one. All are copies."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msd.contract.bundle import (
    GOLDENS,
    MANIFEST,
    MARKER,
    RANKER,
    ROWS,
    Manifest,
    file_entries,
    open_bundle,
    write_manifest,
)

CURRENT = "current"


def good_bundle(source: Path, folder: Path, version: str) -> Path:
    """Copy the bundle with another version, which its replies carry."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(MARKER))
    _seal(folder, model_version=version)
    return folder


def mapped_bundle(source: Path, folder: Path) -> Path:
    """Return the bundle, or if it maps no BidRequests, a copy that maps the user and every context feature."""
    opened = open_bundle(source)
    if opened.manifest.openrtb is not None:
        return source
    features = {name: f"ext.{name}" for name in opened.schema.settable["context"]}
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(MARKER))
    _seal(folder, openrtb={"user_id": ["user.buyeruid"], "features": features})
    return folder


def bad_bundles(good: Path, folder: Path) -> list[Path]:
    """Return a bundle of each kind that must be refused, named for its defect."""
    bad = []
    for name, spoil in _SPOILERS.items():
        bad.append(good_bundle(good, folder / name.replace(" ", "-"), name))
        spoil(bad[-1])
    return bad


def point_to(folder: Path, name: str) -> None:
    """Move the pointer of a folder of bundles atomically."""
    fresh = folder / f".{CURRENT}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(name)
    fresh.replace(folder / CURRENT)


def _seal(folder: Path, **changes: object) -> None:
    """Write a manifest that matches the current files."""
    document = json.loads((folder / MANIFEST).read_text("utf-8"))
    write_manifest(folder, Manifest.model_validate({**document, "files": file_entries(folder), **changes}))


def _flip(path: Path) -> None:
    """Flip one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _change(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest without sealing it again."""
    path = folder / MANIFEST
    document = json.loads(path.read_text("utf-8"))
    change(document)
    path.write_text(json.dumps(document))


def _goldens_not_reproduced(folder: Path) -> None:
    """Sealed again: only a model run reveals it."""
    path = folder / GOLDENS
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for line in lines:
        line["expected"]["pctr"] = [0.5 + score / 2 for score in line["expected"]["pctr"]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    _seal(folder)


def _nothing(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


_SPOILERS: Mapping[str, Callable[[Path], object]] = {
    "graph tampered with": lambda folder: _flip(folder / RANKER),
    "rows tampered with": lambda folder: _flip(folder / ROWS["item"]),
    "rows truncated": lambda folder: _truncate(folder / ROWS["user"]),
    "half copied": lambda folder: (folder / RANKER).unlink(),
    "manifest truncated": lambda folder: _truncate(folder / MANIFEST),
    "manifest tampered with": lambda folder: _change(
        folder, lambda document: document.update(tolerances=dict.fromkeys(document["tolerances"], 1.0))
    ),
    "format unknown": lambda folder: _change(folder, lambda document: document.update(format_version=99)),
    "goldens not reproduced": _goldens_not_reproduced,
    "path outside": lambda folder: _change(
        folder, lambda document: document["files"].update({"../../../etc/passwd": document["files"][RANKER]})
    ),
    "nothing": _nothing,
}
