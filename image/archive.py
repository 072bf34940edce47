"""An image's archive: the size of its layers, and its bill of materials."""

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from image.command import ImageError, output_of, program


class Layer(NamedTuple):
    """One layer over the base: the command that made it, and its size in bytes."""

    made_by: str
    bytes: int


def layers_over(archive: Path, base: Sequence[str]) -> list[Layer]:
    """Return the layers that an image in Docker's format adds to its base, with their uncompressed size."""
    with tarfile.open(archive) as file:
        manifest = json.loads(_read(file, "manifest.json"))[0]
        config = json.loads(_read(file, manifest["Config"]))
        sizes = [file.getmember(name).size for name in manifest["Layers"]]
    makers = [step.get("created_by", "") for step in config["history"] if not step.get("empty_layer")]
    digests = config["rootfs"]["diff_ids"]
    if digests[: len(base)] != list(base):
        raise ImageError(f"{archive}: is not made over the base that was named")
    makers = [""] * (len(sizes) - len(makers)) + makers
    return [Layer(_short(maker), size) for maker, size in zip(makers[len(base) :], sizes[len(base) :], strict=True)]


def write_bill(archive: Path, bill: Path) -> int:
    """Write the bill of materials as CycloneDX JSON, and return the number of its components."""
    output_of([program("syft"), "scan", f"docker-archive:{archive}", "--output", f"cyclonedx-json={bill}", "--quiet"])
    return len(json.loads(bill.read_text("utf-8"))["components"])


def _read(file: tarfile.TarFile, name: str) -> bytes:
    member = file.extractfile(name)
    if member is None:
        raise ImageError(f"the image's archive: {name} is not a file")
    return member.read()


def _short(maker: str) -> str:
    return " ".join(maker.split())[:80]
