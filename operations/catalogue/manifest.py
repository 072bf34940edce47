"""catalogue.json, written last: the parts of a finished catalogue, their bundle, and their hashes. Knows files by their
bytes, not their content.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from msd.contract.bundle import FileEntry, Proof
from msd.contract.errors import MsdError
from msd.contract.files import read_small, sha256_file, write_bytes_atomic
from msd.contract.schema import FeatureSchema
from msd.contract.sealed import SelfHashed, parse_sealed

CATALOGUE = "catalogue.json"
_MAX_BYTES = 256 * 2**20
_ADVICE = "; this is no folder that `msd catalogue` has finished: run it again, it goes on"


class CatalogueError(MsdError):
    """A shard, a part or the manifest of a catalogue is missing, damaged or invalid."""


class PartEntry(FileEntry):
    """Expected part."""

    rows: Annotated[int, Field(ge=0)]


class CatalogueManifest(SelfHashed):
    """Manifest of a catalogue."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format_version: Literal[1] = 1
    bundle_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    feature_schema: FeatureSchema
    parts: dict[Annotated[str, Field(pattern=r"^[^/\\]+\.parquet$")], PartEntry]
    sha256: str = Field(default="", description="Of this manifest's JSON with this field empty.")

    @property
    def rows(self) -> int:
        """Return the rows of all parts."""
        return sum(part.rows for part in self.parts.values())


def write_manifest(folder: Path, bundle_id: str, schema: FeatureSchema, parts: Mapping[str, PartEntry]) -> None:
    """Seal a catalogue; parts are sorted by name."""
    manifest = CatalogueManifest(bundle_id=bundle_id, feature_schema=schema, parts=dict(sorted(parts.items())))
    write_bytes_atomic(folder / CATALOGUE, manifest.sealed().model_dump_json(indent=2).encode())


def open_catalogue(folder: Path, *, proof: Proof | None = None) -> CatalogueManifest:
    """Verify the catalogue in `folder`, all parts in full. Raises CatalogueError if any is missing or changed."""
    content = read_small(folder / CATALOGUE, _MAX_BYTES, CatalogueError, _ADVICE)
    if proof is not None:
        proof(folder / CATALOGUE, content)
    manifest = parse_sealed(folder / CATALOGUE, content, CatalogueManifest, CatalogueError)
    for name, entry in manifest.parts.items():
        path = folder / name
        if not path.is_file():
            raise CatalogueError(f"{path}: missing; run `msd catalogue` again, or copy the folder again")
        if path.stat().st_size != entry.size or sha256_file(path) != entry.sha256:
            raise CatalogueError(
                f"{path}: is not what {CATALOGUE} says; it was changed or damaged: remove it and run `msd catalogue`"
                " again, or copy the folder again"
            )
    return manifest
