"""A bundle: the folder that is all that crosses from offline to online, its manifest, how it is written and verified.

Does not know what is inside the graphs, nor how rows are looked up.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from msd.contract.encoded import encoder_identity
from msd.contract.encoder_record import EncoderRecord
from msd.contract.errors import BundleError, first_fault
from msd.contract.files import owned_folder, sha256_file, write_text_atomic
from msd.contract.graph_file import check_graph_file
from msd.contract.openrtb import OpenrtbMapping
from msd.contract.precision import PrecisionRecord
from msd.contract.reference import Reference
from msd.contract.rows import ROW_FORMAT, row_dtype
from msd.contract.schema import FeatureSchema
from msd.contract.sealed import SelfHashed

FORMAT_VERSION: Literal[3] = 3
MANIFEST = "manifest.json"
MARKER = "verified.json"
SIGNATURE = "manifest.sig"
RANKER = "ranker.onnx"
MERGED_RANKER = "ranker.merged.onnx"
ENCODER = "encoder.onnx"
TOKENIZER = "tokenizer.json"
ROWS = {"user": "users.rows", "item": "items.rows"}
GOLDENS = "golden.jsonl"
ITEM_WORDS = "items.meta.jsonl"
USER_WORDS = "users.meta.jsonl"
REQUIRED = (RANKER, *ROWS.values(), GOLDENS)
_ALLOWED = (*REQUIRED, MERGED_RANKER, ENCODER, TOKENIZER, ITEM_WORDS, USER_WORDS)
FILES = (MANIFEST, SIGNATURE, *_ALLOWED)
"""Names of all files that a bundle may have, without the mark that verification leaves."""
_MAX_MANIFEST_BYTES = 64 * 2**20
# Of what is read whole, or line by line; rows are read block by block, whatever their size.
_MAX_BYTES = {RANKER: 2**31, ENCODER: 2**31, GOLDENS: 2**28, TOKENIZER: 2**26}

Proof = Callable[[Path, bytes], None]
"""Called with a manifest's path and bytes before anything is made of them; raises BundleError."""
Pause = Callable[[], object]
"""Called between small parts of long work, for others to have the processor."""


class FileEntry(BaseModel):
    """What a file of the bundle must be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]


HOW_SURE = "how_sure"
"""In a model's metrics: how often it was right by how far apart it scored two of a pair, measured on valid rows."""


class Manifest(SelfHashed):
    """What a bundle says of itself. `tolerances` are the greatest |pCTR − torch's| by `tolerance_key`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format_version: Literal[3] = FORMAT_VERSION
    bundle_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    model_version: str
    created_at: float
    feature_schema: FeatureSchema
    heads: Annotated[tuple[str, ...], Field(min_length=1)]
    files: dict[str, FileEntry]
    tolerances: dict[str, float]
    calibration: dict[str, Any]
    metrics: dict[str, Any]
    provenance: dict[str, Any]
    precision: PrecisionRecord | None = None
    encoder: EncoderRecord | None = None
    reference: Reference | None = None
    openrtb: OpenrtbMapping | None = None
    sha256: str = Field(default="", description="Of this manifest's JSON with this field empty.")

    @model_validator(mode="after")
    def _mapping_fits(self) -> Self:
        if self.openrtb is not None:
            self.openrtb.check(self.feature_schema.settable["context"])
        return self

    @model_serializer(mode="wrap")
    def _without_what_older_manifests_lack(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """So that the hash of a manifest without these parts is what it was when it was written."""
        document: dict[str, Any] = handler(self)
        for name in ("precision", "encoder", "reference", "openrtb"):
            if document[name] is None:
                del document[name]
        return document


@dataclass(frozen=True)
class Bundle:
    """A verified bundle's folder and manifest."""

    folder: Path
    manifest: Manifest

    @property
    def schema(self) -> FeatureSchema:
        """The model's inputs."""
        return self.manifest.feature_schema

    @property
    def bundle_id(self) -> str:
        """The identity of weights, schema and row layout."""
        return self.manifest.bundle_id

    @property
    def precision(self) -> PrecisionRecord:
        """In which precision its ranker runs; fp32 where the manifest does not say."""
        return self.manifest.precision or PrecisionRecord()

    @property
    def encoder_identity(self) -> str | None:
        """What its vectors of texts depend on besides the texts; None where it cannot make any."""
        files = self.manifest.files
        if self.manifest.encoder is None or not {ENCODER, TOKENIZER} <= files.keys():
            return None
        return encoder_identity(files[ENCODER].sha256, files[TOKENIZER].sha256)

    @property
    def encoder_pays(self) -> bool:
        """Whether its export found that a cold ad's text, once encoded, surely gains over its features."""
        record = self.manifest.encoder
        return record is not None and record.cold_ads is not None and record.cold_ads.pay

    def path(self, name: str) -> Path:
        """The path of a file, which may be absent if it is optional."""
        return self.folder / name


def bundle_id_of(schema: FeatureSchema, weight_hashes: Mapping[str, str]) -> str:
    """The identity of a bundle: the graphs' hashes, schema and row layout, but not the rows' contents."""
    parts = {
        "weights": dict(sorted(weight_hashes.items())),
        "schema": schema.schema_hash,
        "rows": [ROW_FORMAT, *(str(row_dtype(schema, side).descr) for side in ("user", "item"))],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def tolerance_key(runtime: str, provider: str, precision: str) -> str:
    """The name of a tolerance in a manifest, e.g. `onnxruntime-cpu-fp32`."""
    return f"{runtime}-{provider}-{precision}"


@contextmanager
def new_bundle(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, which it replaces when the block ends without an error.

    Raises BundleError, before the block, when `folder` holds something else than a bundle: it would be lost.
    """
    folder = folder.resolve()
    if folder.is_file() or (folder.is_dir() and not (folder / MANIFEST).exists() and any(folder.iterdir())):
        raise BundleError(f"{folder}: exists and is not a bundle; give a new folder, or remove this one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with owned_folder(folder.parent, f".{folder.name}.") as own:
        (temporary := own / "new").mkdir()
        yield temporary
        temporary.chmod(0o755)
        if folder.exists():
            os.replace(folder, own / "old")
        os.replace(temporary, folder)


def file_entries(folder: Path) -> dict[str, FileEntry]:
    """The entries of all files that a bundle may have and this folder has."""
    return {
        name: FileEntry(sha256=sha256_file(folder / name), size=(folder / name).stat().st_size)
        for name in _ALLOWED
        if (folder / name).is_file()
    }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest, sealed with its own hash; the last step of making a bundle."""
    sealed = manifest.model_copy(update={"sha256": manifest.digest()})
    write_text_atomic(folder / MANIFEST, sealed.model_dump_json(indent=2) + "\n")


def open_bundle(folder: Path, *, rows: bool = True, proof: Proof | None = None, pause: Pause = lambda: None) -> Bundle:
    """The bundle in `folder`. Its files are hashed in full unless an earlier verification left its mark and nothing
    has been touched since; with a proof, always, because who can write to the folder can write a mark. With
    `rows=False` the rows files may be absent (a store elsewhere holds them). `pause` is called every few milliseconds.

    Raises BundleError when anything is missing, changed, or of another format.
    """
    manifest = read_manifest(folder / MANIFEST, proof)
    needed = {name: entry for name, entry in manifest.files.items() if rows or name not in ROWS.values()}
    for name in REQUIRED:
        if name not in manifest.files:
            raise BundleError(f"{folder / MANIFEST}: lists no {name}")
    _check_places(folder, needed)
    mark = _mark(folder, manifest, needed)
    if proof is not None or not _covers(_read_mark(folder), mark):
        _check_contents(folder, needed, pause)
        with suppress(OSError):  # a folder that cannot be written to is hashed at each start
            write_text_atomic(folder / MARKER, json.dumps(mark))
    return Bundle(folder, manifest)


def _check_places(folder: Path, files: Mapping[str, FileEntry]) -> None:
    home = folder.resolve()
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            raise BundleError(f"{path}: missing; copy the bundle again")
        # Links within it are how Kubernetes lays out a volume.
        if not path.resolve().is_relative_to(home):
            raise BundleError(f"{path}: is a link out of the bundle; copy the file itself")
        if path.stat().st_size != entry.size:
            raise BundleError(f"{path}: has {path.stat().st_size} bytes, not {entry.size}; copy it again")


def _check_contents(folder: Path, files: Mapping[str, FileEntry], pause: Pause) -> None:
    for name, entry in files.items():
        if sha256_file(folder / name, pause) != entry.sha256:
            raise BundleError(f"{folder / name}: its SHA-256 differs from the manifest's; it was changed or damaged")
        if name.endswith(".onnx"):
            check_graph_file(folder / name, pause)


def open_verified(folder: Path, sha256: str) -> Bundle:
    """The bundle in `folder` that another process has verified, by its manifest's hash. Raises BundleError."""
    manifest = read_manifest(folder / MANIFEST)
    if manifest.sha256 != sha256:
        raise BundleError(f"{folder}: is not the bundle that was verified, but {manifest.sha256[:12]}…")
    return Bundle(folder, manifest)


def read_manifest(path: Path, proof: Proof | None = None) -> Manifest:
    """A bundle's manifest, without its files. Raises BundleError when it is not whole, or of another format."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        raise BundleError(f"{path.parent}: no bundle here ({path.name} is missing); `msd export` writes one") from None
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}") from None
    if len(content) > _MAX_MANIFEST_BYTES:
        raise BundleError(f"{path}: larger than {_MAX_MANIFEST_BYTES} bytes")
    if proof is not None:
        proof(path, content)
    return _parsed(path, content)


def _parsed(path: Path, content: bytes) -> Manifest:
    try:
        document = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not readable as JSON: {error}") from None
    version = document.get("format_version") if isinstance(document, dict) else None
    if version != FORMAT_VERSION:
        raise BundleError(f"{path}: bundle format {version!r}, expected {FORMAT_VERSION}; export it again")
    try:
        manifest = Manifest.model_validate(document)
    except ValidationError as error:
        fault = first_fault(error)
        raise BundleError(f"{path}: {fault.place}: {fault.words}") from None
    try:
        digest = manifest.digest()
    except ValueError as error:  # e.g. half of a surrogate pair, or lists without end, in the free parts
        raise BundleError(f"{path}: {error}") from None
    if manifest.sha256 != digest:
        raise BundleError(f"{path}: its contents do not match its own hash; it was changed or damaged")
    unexpected = sorted(set(manifest.files) - set(_ALLOWED))
    if unexpected:
        raise BundleError(f"{path}: lists an unknown file: {unexpected[0]!r}")
    for name, most in _MAX_BYTES.items():
        if name in manifest.files and manifest.files[name].size > most:
            raise BundleError(f"{path}: {name} has {manifest.files[name].size} bytes; the limit is {most}")
    weights = {name: manifest.files[name].sha256 for name in (RANKER, ENCODER) if name in manifest.files}
    if manifest.bundle_id != bundle_id_of(manifest.feature_schema, weights):
        raise BundleError(f"{path}: bundle_id does not fit its graphs and schema")
    return manifest


def _mark(folder: Path, manifest: Manifest, files: Mapping[str, FileEntry]) -> dict[str, Any]:
    # The time of the last change of the inode, not of the contents: no copy can carry it along, so that a bundle which
    # arrives with its mark and its times is hashed all the same.
    touched = {name: (folder / name).stat().st_ctime_ns for name in sorted(files)}
    return {"manifest_sha256": manifest.sha256, "changed_ns": touched}


def _covers(found: object, mark: Mapping[str, Any]) -> bool:
    """Whether a mark vouches for all that `mark` would; it may vouch for more, such as rows that are not needed now."""
    if not isinstance(found, dict) or found.get("manifest_sha256") != mark["manifest_sha256"]:
        return False
    changed = found.get("changed_ns")
    return isinstance(changed, dict) and mark["changed_ns"].items() <= changed.items()


def _read_mark(folder: Path) -> object:
    try:
        return json.loads((folder / MARKER).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
