"""Bundles for a service to follow: copies with other versions, or with a mapping of BidRequests."""

import json
import shutil
from pathlib import Path

from msd.contract.bundle import MANIFEST, MARKER, Manifest, file_entries, open_bundle, write_manifest

CURRENT = "current"


def good_bundle(source: Path, folder: Path, version: str, **changes: object) -> Path:
    """Copy the bundle with another version, which its replies carry, and other changes of the manifest."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(MARKER))
    _seal(folder, model_version=version, **changes)
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
