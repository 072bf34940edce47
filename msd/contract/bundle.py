"""A bundle: the folder that connects offline and online, its manifest, and how it is written and verified.

Does not know the content of graphs, nor how rows are looked up.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
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

from msd.contract.encoder_record import EncoderRecord
from msd.contract.errors import BundleError, first_fault
from msd.contract.files import open_regular, owned_folder, sha256_file, write_text_atomic
from msd.contract.graph_file import check_graph_file
from msd.contract.openrtb import OpenrtbMapping
from msd.contract.precision import PrecisionRecord
from msd.contract.pricing import Formula, Pricing, declared_pricing, formula_of
from msd.contract.reference import Reference
from msd.contract.rows import ROW_FORMAT, row_dtype
from msd.contract.schema import FeatureSchema
from msd.contract.sealed import SelfHashed
from msd.contract.uncertainty import Uncertainty

FORMAT_VERSION: Literal[4] = 4
MANIFEST = "manifest.json"
MARKER = "verified.json"
SIGNATURE = "manifest.sig"
RANKER = "ranker.onnx"
RANKER_INT8 = "ranker.int8.onnx"
"""The ranker with rounded layers, if they passed the export's gate."""
ENCODER = "encoder.onnx"
TOKENIZER = "tokenizer.json"
ROWS = {"user": "users.rows", "item": "items.rows"}
GOLDENS = "golden.jsonl"
ITEM_WORDS = "items.meta.jsonl"
USER_WORDS = "users.meta.jsonl"
WORDS = "words.bin"
"""What turns a teacher's answer into the words of an item's row (`msd.contract.words`)."""
REQUIRED = (RANKER, *ROWS.values(), GOLDENS)
_ALLOWED = (*REQUIRED, RANKER_INT8, ENCODER, TOKENIZER, WORDS, ITEM_WORDS, USER_WORDS)
FILES = (MANIFEST, SIGNATURE, *_ALLOWED)
"""Names of all files of a bundle, except the mark of a verification."""
_MAX_MANIFEST_BYTES = 64 * 2**20
# Limits of files that are read whole, or line by line; rows are read block by block, whatever their size.
_MAX_BYTES = {RANKER: 2**31, RANKER_INT8: 2**31, ENCODER: 2**31, GOLDENS: 2**28, TOKENIZER: 2**26, WORDS: 2**28}

Proof = Callable[[Path, bytes], None]
"""Called with a manifest's path and bytes before they are parsed; raises BundleError."""
Pause = Callable[[], object]
"""Called between small parts of long work, to yield the processor."""


class FileEntry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]


HOW_SURE = "how_sure"
"""Key in a model's metrics: accuracy by the score difference of two candidates, measured on valid rows."""


class Manifest(SelfHashed):
    """Manifest of a bundle. `tolerances` are the largest |pCTR − torch's| by `tolerance_key`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format_version: Literal[4] = FORMAT_VERSION
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
    pricing: dict[Pricing, tuple[str, ...]] | None = Field(
        default=None, description="Heads by pricing: eCPM = 1000 × bid × their product; of cpm, the bid is the eCPM."
    )
    uncertainty: Uncertainty | None = Field(default=None, description="Of `msd export --uncertainty`.")
    sha256: str = Field(default="", description="Of this manifest's JSON with this field empty.")

    @model_validator(mode="after")
    def _mapping_fits(self) -> Self:
        if self.openrtb is not None:
            self.openrtb.check(self.feature_schema.settable["context"])
        if self.pricing is not None:
            declared_pricing(self.pricing, self.heads)
        return self

    @property
    def formula(self) -> Formula:
        """How prices become eCPM; as the heads allow if the manifest does not say."""
        return formula_of(self.heads) if self.pricing is None else self.pricing

    @model_serializer(mode="wrap")
    def _without_what_older_manifests_lack(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit newer parts, so that an older manifest keeps its hash."""
        document: dict[str, Any] = handler(self)
        for name in ("precision", "encoder", "reference", "openrtb", "pricing", "uncertainty"):
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
        return self.manifest.feature_schema

    @property
    def bundle_id(self) -> str:
        """Identity of weights, schema and row layout."""
        return self.manifest.bundle_id

    @property
    def precision(self) -> PrecisionRecord:
        """Precision of its ranker; fp32 if the manifest does not say."""
        return self.manifest.precision or PrecisionRecord()

    @cached_property
    def encoder_identity(self) -> str | None:
        """What text vectors depend on besides the text: the hashes of both files; None without an encoder."""
        files = self.manifest.files
        if self.manifest.encoder is None or not {ENCODER, TOKENIZER} <= files.keys():
            return None
        return hashlib.sha256(f"{files[ENCODER].sha256}{files[TOKENIZER].sha256}".encode()).hexdigest()

    @property
    def encoder_pays(self) -> bool:
        """Whether its export measured a significant gain of encoding a cold ad's text over its features."""
        record = self.manifest.encoder
        return record is not None and record.cold_ads is not None and record.cold_ads.pay

    def path(self, name: str) -> Path:
        """Return the path of a file, which may be absent if it is optional."""
        return self.folder / name


def bundle_id_of(schema: FeatureSchema, weight_hashes: Mapping[str, str]) -> str:
    """Return the identity of a bundle: the graphs' hashes, schema and row layout, but not the rows' contents."""
    parts = {
        "weights": dict(sorted(weight_hashes.items())),
        "schema": schema.schema_hash,
        "rows": [ROW_FORMAT, *(str(row_dtype(schema, side).descr) for side in ("user", "item"))],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def tolerance_key(runtime: str, provider: str, precision: str) -> str:
    """Return the name of a tolerance in a manifest, e.g. `onnxruntime-cpu-fp32`."""
    return f"{runtime}-{provider}-{precision}"


@contextmanager
def new_bundle(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`, which it replaces if the block ends without an error.

    Raises BundleError, before the block, if `folder` holds anything but a bundle, which would be lost.
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
    return {
        name: FileEntry(sha256=sha256_file(folder / name), size=(folder / name).stat().st_size)
        for name in _ALLOWED
        if (folder / name).is_file()
    }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, sealed with its own hash; the last step of making a bundle."""
    write_text_atomic(folder / MANIFEST, manifest.sealed().model_dump_json(indent=2) + "\n")


def open_bundle(folder: Path, *, rows: bool = True, proof: Proof | None = None, pause: Pause = lambda: None) -> Bundle:
    """Open the bundle in `folder`. Its files are hashed in full unless an earlier verification left its mark and
    nothing has changed since; with a proof, always, because anyone who can write to the folder can write a mark. With
    `rows=False` the rows files may be absent (rows are in another store). `pause` is called every few milliseconds.

    Raises BundleError if anything is missing, changed, or of another format.
    """
    manifest = read_manifest(folder / MANIFEST, proof)
    needed = {name: entry for name, entry in manifest.files.items() if rows or name not in ROWS.values()}
    for name in REQUIRED:
        if name not in manifest.files:
            raise BundleError(f"{folder / MANIFEST}: lists no {name}")
    _check_places(folder, needed)
    mark = _mark(folder, manifest, needed)
    if proof is not None or not _is_marked(folder, mark):
        for name, entry in needed.items():
            if sha256_file(folder / name, pause) != entry.sha256:
                raise BundleError(
                    f"{folder / name}: its SHA-256 differs from the manifest's; it was changed or damaged"
                )
            if name.endswith(".onnx"):
                check_graph_file(folder / name, pause)
        with suppress(OSError):  # a read-only folder is hashed at each start
            write_text_atomic(folder / MARKER, json.dumps(mark))
    return Bundle(folder, manifest)


def _check_places(folder: Path, files: Mapping[str, FileEntry]) -> None:
    home = folder.resolve()
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            raise BundleError(f"{path}: missing; copy the bundle again")
        # Kubernetes lays out volumes with links within them.
        if not path.resolve().is_relative_to(home):
            raise BundleError(f"{path}: is a link out of the bundle; copy the file itself")
        if path.stat().st_size != entry.size:
            raise BundleError(f"{path}: has {path.stat().st_size} bytes, not {entry.size}; copy it again")


def open_verified(folder: Path, sha256: str) -> Bundle:
    """Open the bundle in `folder` that another process has verified, by its manifest's hash. Raises BundleError."""
    manifest = read_manifest(folder / MANIFEST)
    if manifest.sha256 != sha256:
        raise BundleError(f"{folder}: is not the bundle that was verified, but {manifest.sha256[:12]}…")
    return Bundle(folder, manifest)


def read_manifest(path: Path, proof: Proof | None = None) -> Manifest:
    """Read a bundle's manifest, without its files. Raises BundleError if it is incomplete, or of another format."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
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
        raise BundleError(f"{path}: {first_fault(error)}") from None
    try:
        digest = manifest.digest()
    except ValueError as error:  # e.g. half of a surrogate pair, or lists without end, in the free parts
        raise BundleError(f"{path}: {error}") from None
    if manifest.sha256 != digest:
        raise BundleError(f"{path}: its contents do not match its own hash; it was changed or damaged")
    _check_files(path, manifest)
    weights = {name: manifest.files[name].sha256 for name in (RANKER, ENCODER) if name in manifest.files}
    if manifest.bundle_id != bundle_id_of(manifest.feature_schema, weights):
        raise BundleError(f"{path}: bundle_id does not fit its graphs and schema")
    return manifest


def _check_files(path: Path, manifest: Manifest) -> None:
    unexpected = sorted(set(manifest.files) - set(_ALLOWED))
    if unexpected:
        raise BundleError(f"{path}: lists an unknown file: {unexpected[0]!r}")
    for name, most in _MAX_BYTES.items():
        if name in manifest.files and manifest.files[name].size > most:
            raise BundleError(f"{path}: {name} has {manifest.files[name].size} bytes; the limit is {most}")


def _mark(folder: Path, manifest: Manifest, files: Mapping[str, FileEntry]) -> dict[str, Any]:
    # ctime, not mtime: no copy can carry it along, so a bundle that arrives with its mark and times is still hashed.
    touched = {name: (folder / name).stat().st_ctime_ns for name in sorted(files)}
    return {"manifest_sha256": manifest.sha256, "changed_ns": touched}


def _is_marked(folder: Path, mark: Mapping[str, Any]) -> bool:
    """Return whether the folder's mark covers everything in `mark`; it may cover more, such as rows that are not needed
    now."""
    try:
        with os.fdopen(open_regular(folder / MARKER), "rb") as file:
            found = json.loads(file.read(_MAX_MANIFEST_BYTES))
        is_same = found["manifest_sha256"] == mark["manifest_sha256"]
        return bool(is_same and mark["changed_ns"].items() <= found["changed_ns"].items())
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return False
