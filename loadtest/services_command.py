"""`msd bench` without a bundle: our service against a naive one, both of which it starts itself."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from loadtest.bars import bar
from msd.contract.errors import MsdError
from msd.contract.files import write_text_atomic

_VALUED = ("--json", "--work", "--seconds")
_PLAIN = ("--peers", "--help")
_NEEDED = "pip install -e '.[train,cpu,openvino,demo]'"

services_app = typer.Typer(add_completion=False)


def is_meant(arguments: Sequence[str]) -> bool:
    """Whether no bundle is named among the arguments, nor an option that this command has not."""
    is_value = False
    for argument in arguments:
        if not is_value and argument.partition("=")[0] not in (*_VALUED, *_PLAIN):
            return False
        is_value = not is_value and argument in _VALUED
    return True


@services_app.command(
    "bench",
    epilog="`msd bench BUNDLE --url URL` measures a running service (see `msd bench BUNDLE --help`), "
    "`msd bench --graph` the scoring graph alone.",
)
def services(
    figures: Annotated[
        Path | None, typer.Option("--json", help="A file for the figures; pictures go beside it.")
    ] = None,
    work: Annotated[Path, typer.Option(help="A folder that keeps bundles, rows and logs.")] = Path("runs/bench"),
    seconds: Annotated[float, typer.Option(min=0.1, help="Duration of each round; longer reduces noise.")] = 2.0,
    peers: Annotated[
        bool, typer.Option("--peers", help="Compare with general model servers, which are installed first.")
    ] = False,
) -> None:
    """Our service against a naive one, in turns, over bundles of a reference model that is trained first."""
    check_writable(figures)
    try:
        from loadtest.bench.bench import bench_services
        from loadtest.bench.peers.contest import bench_peers
        from loadtest.bench.peers.tables import peer_tables
        from loadtest.bench.pictures import PICTURES
        from loadtest.bench.plan import BenchPlan
        from loadtest.bench.tables import tables
    except ModuleNotFoundError as error:
        raise MsdError(f"`msd bench` needs the module {error.name!r}; in the checkout: {_NEEDED}") from error
    console = Console()
    with bar() as heard:
        found = (bench_peers if peers else bench_services)(BenchPlan(seconds=seconds), work, heard)
    for table in (peer_tables if peers else tables)(found):
        console.print(table)
    if figures is not None:
        written = {figures: json.dumps(found, indent=2) + "\n"}
        if not peers:
            written |= {figures.with_name(f"{figures.stem}-{name}.svg"): draw(found) for name, draw in PICTURES.items()}
        for path, text in written.items():
            write_text_atomic(path, text)
        console.print(f"written: {', '.join(map(str, written))}", highlight=False, soft_wrap=True)


def check_writable(figures: Path | None) -> None:
    """Raises MsdError, before anything is measured, where figures could not be written afterwards."""
    if figures is None:
        return
    if figures.suffix != ".json":
        raise MsdError(f"--json {figures}: has to end in .json; pictures of the same name are written beside it")
    folder = next(one for one in figures.absolute().parents if one.exists())
    if figures.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise MsdError(f"--json {figures}: cannot be written; {folder} is not a writable folder")
