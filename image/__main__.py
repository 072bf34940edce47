"""Command `python -m image`: build the image's targets, run each as in production, and write the results as JSON."""

import json
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from image.archive import layers_over, write_bill
from image.command import ImageError, logged, output_of, program
from image.engine import ContainerEngine, find_engine
from image.trial import start_seconds, try_refusal, try_serving
from msd.contract.bundle import MANIFEST
from msd.contract.errors import MsdError

_MAX_CPU_BYTES = 350_000_000
_MAX_START_S = 3.0
# The first start reads the image from disk, and other load on the machine can slow a start: the fastest one counts.
_STARTS = 3
_TOLERANCE = 1e-5

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class ImageTarget(StrEnum):
    """Target of the Dockerfile."""

    CPU = "cpu"
    GPU = "gpu"


@app.command()
def main(
    target: Annotated[list[ImageTarget] | None, typer.Option(help="What to build; may be given twice.")] = None,
    bundle: Annotated[Path, typer.Option(help="What to serve.")] = Path("runs/demo/bundle"),
    engine: Annotated[str | None, typer.Option(help="docker, podman or buildah, else the first that answers.")] = None,
    base: Annotated[str, typer.Option(help="The image to build on.")] = "python:3.13-slim-trixie",
    build_option: Annotated[list[str] | None, typer.Option(help="Handed to the engine's build as it is.")] = None,
    build: Annotated[bool, typer.Option(help="Whether to build, or to try what was built.")] = True,
    fuzz: Annotated[int, typer.Option(min=0, help="How many wrong requests are sent to the service.")] = 1_000,
    out: Annotated[Path, typer.Option(help="Where logs, bills of materials and figures go.")] = Path("runs/image"),
) -> None:
    """Exit status 2 where an image cannot be built, does not score as its bundle says, or is too large or too slow."""
    console = Console(stderr=True)
    try:
        found = find_engine(engine)
        if not (bundle / MANIFEST).is_file():
            raise ImageError(f"{bundle}: no bundle here; `make demo` makes one, --bundle names another")
        out.mkdir(parents=True, exist_ok=True)
        output_of([program("hadolint"), "Dockerfile"])
        options = ["--build-arg", f"PYTHON={base}", *_labels(), *(build_option or ())]
        for one in target or [ImageTarget.CPU]:
            with console.status(f"{found.name}: building and trying {one}, whose logs are in {out}"):
                if build:
                    logged(found.build(one, _image(one), options), out / f"{one}.build.log")
                figures = _tried(found, one, base, bundle.resolve(), out, fuzz)
            text = json.dumps(figures, indent=2)
            (out / f"{one}.json").write_text(text + "\n")
            typer.echo(text)
            _check(one, figures)
    except MsdError as error:
        console.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        sys.exit(2)


def _labels() -> list[str]:
    """Return build arguments with what only the builder knows about the source."""
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    revision = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    known = {
        "VERSION": project["version"],
        "REVISION": revision.stdout.strip() or "unknown",
        "CREATED": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return [part for name, value in known.items() for part in ("--build-arg", f"{name}={value}")]


def _tried(
    engine: ContainerEngine, target: ImageTarget, base: str, bundle: Path, out: Path, fuzz: int
) -> dict[str, Any]:
    image = _image(target)
    figures = {"image": image, "engine": engine.name, **_contents(engine, image, base, out / target)}
    if target is ImageTarget.GPU and not Path("/dev/nvidia0").exists():
        figures["without_gpu"] = try_refusal(engine, image, bundle, out / "gpu.refusal.log")
    on = {"MSD_PROVIDER": "cpu"} if "without_gpu" in figures else {}
    log = out / f"{target}.service.log"
    starts_s = [round(start_seconds(engine, image, bundle, on, log), 2) for _ in range(_STARTS)]
    return {**figures, "starts_s": starts_s, **try_serving(engine, image, bundle, on, log, fuzz)._asdict()}


def _check(target: ImageTarget, figures: dict[str, Any]) -> None:
    """Raise ImageError if the image scores wrongly, does not serve the native core, is too large or starts too
    slowly."""
    image, size, start_s = figures["image"], figures["bytes_over_base"], min(figures["starts_s"])
    if figures["max_abs_diff"] > _TOLERANCE:
        raise ImageError(f"{image} scores other than its bundle says, by {figures['max_abs_diff']:.1e}")
    core = figures["native"]
    # On a GPU, requests may share runs, which Python assembles instead of the native core.
    if not core["served" if target is ImageTarget.CPU else "instructions"]:
        raise ImageError(f"{image} does not serve the native core: {core['reason']}")
    if target is ImageTarget.CPU and size > _MAX_CPU_BYTES:
        raise ImageError(f"{image} has {size:,} bytes over its base, which may be {_MAX_CPU_BYTES:,}")
    if start_s > _MAX_START_S:
        raise ImageError(f"{image} was ready after {start_s} s at best, which may be {_MAX_START_S:.0f} s")


def _image(target: ImageTarget) -> str:
    return f"msd-ctr:{target}"


def _contents(engine: ContainerEngine, image: str, base: str, name: Path) -> dict[str, Any]:
    """Return the image's layers, and write its bill of materials, both from the image as it is shipped."""
    archive, bill = name.with_suffix(".tar"), name.with_suffix(".cdx.json")
    archive.unlink(missing_ok=True)
    try:
        logged(engine.save(image, archive), name.with_suffix(".save.log"))
        layers = layers_over(archive, engine.inspect(base).layers)
        components = write_bill(archive, bill)
    finally:
        archive.unlink(missing_ok=True)
    return {
        "bytes_over_base": sum(layer.bytes for layer in layers),
        "layers": [layer._asdict() for layer in layers],
        "bill_of_materials": str(bill),
        "components": components,
    }


if __name__ == "__main__":
    app()
