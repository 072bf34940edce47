"""`msd bench` without a bundle: compares the service with a naive one; starts both."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from msd.report import bar, check_writable, show, write_figures

_VALUED = ("--json", "--work", "--seconds")
_PLAIN = ("--peers", "--help")

services_app = typer.Typer(add_completion=False)


def is_meant(arguments: Sequence[str]) -> bool:
    """Return whether the arguments name no bundle, and no option of another form."""
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
    from loadtest.bench.bench import bench_services
    from loadtest.bench.peers.contest import bench_peers
    from loadtest.bench.peers.tables import peer_tables
    from loadtest.bench.pictures import PICTURES
    from loadtest.bench.plan import BenchPlan
    from loadtest.bench.tables import tables

    with bar() as heard:
        found = (bench_peers if peers else bench_services)(BenchPlan(seconds=seconds), work, heard)
    show((peer_tables if peers else tables)(found))
    drawn = {} if peers or figures is None else {f"-{name}.svg": draw(found) for name, draw in PICTURES.items()}
    write_figures(figures, found, drawn)
