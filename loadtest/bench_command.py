"""`msd bench`: our service against a naive one; `msd bench BUNDLE`: the latency of a running service; `msd bench
--graph`: the speed of the graph alone.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from loadtest.bars import bar
from loadtest.running_command import running_app
from loadtest.services_command import is_meant, services_app
from msd.contract.errors import MsdError
from msd.contract.files import write_text_atomic

_GRAPH = "--graph"


class _Bench(typer.Typer):
    """Three commands by one name, told apart by --graph and BUNDLE: what they share, --json, means several things."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as Typer has it
        arguments, name = list(kwargs.pop("args")), kwargs.pop("prog_name")
        if _GRAPH not in arguments:
            call = services_app if is_meant(arguments) else running_app
            return call(*args, args=arguments, prog_name=name, **kwargs)
        arguments.remove(_GRAPH)
        return graph_app(*args, args=arguments, prog_name=f"{name} {_GRAPH}", **kwargs)


app = _Bench(add_completion=False)
graph_app = typer.Typer(add_completion=False)


@graph_app.command("graph")
def graph(
    figures: Annotated[
        Path | None, typer.Option("--json", help="A file for the figures; a picture goes beside it.")
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="A bundle whose ranker is timed as well.")] = None,
    work: Annotated[Path, typer.Option(help="Folder for trained models, reused.")] = Path("runs/graph"),
    seconds: Annotated[float, typer.Option(min=0.0, help="Duration of each comparison; longer reduces noise.")] = 4.0,
    lean_seeds: Annotated[
        int,
        typer.Option(min=1, help="Seeds of the leaner model; from 2 on, each of its changes is tested alone too."),
    ] = 1,
) -> None:
    """Time the scoring graph on one thread: tiled, plain, factorised, in lower precision, its products alone."""
    if figures is not None and figures.suffix != ".json":
        raise typer.BadParameter(f"{figures}: has to end in .json; a picture of the same name is written as .svg")
    try:
        from loadtest.graph.bench import GraphPlan, bench_graph
        from loadtest.graph.leaner import Study
        from loadtest.graph.picture import picture
        from loadtest.graph.tables import tables
    except ModuleNotFoundError as error:
        raise MsdError(
            f"`msd bench --graph` needs the module {error.name!r}; in the checkout: pip install -e '.[train,cpu]'"
        ) from error
    console = Console()
    with bar() as heard:
        found = bench_graph(GraphPlan(seconds=seconds, study=Study(seeds=lean_seeds)), work, bundle, heard)
    for table in tables(found):
        console.print(table)
    if figures is not None:
        write_text_atomic(figures, json.dumps(found, indent=2) + "\n")
        write_text_atomic(figures.with_suffix(".svg"), picture(found))
        console.print(f"{figures} and {figures.with_suffix('.svg').name}: written", highlight=False)
