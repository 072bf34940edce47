"""`msd savings`: compare this service with a language model at request time and with the ranker without semantics."""

from pathlib import Path
from typing import Annotated

import typer

from msd.report import bar, check_writable, show, write_figures

app = typer.Typer(add_completion=False)


@app.command("savings")
def savings(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="The dataset's folder.")],
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle trained on it.")],
    without: Annotated[Path, typer.Option(help="The bundle of the same ranker without semantics.")],
    llm: Annotated[Path, typer.Option(help="A language model: a transformers folder or a GGUF file.")],
    users: Annotated[int, typer.Option(min=2, help="Users whose test events are scored.")] = 40,
    candidates: Annotated[int, typer.Option(min=2, max=2_000, help="Candidates per timed request.")] = 200,
    requests_per_s: Annotated[float, typer.Option(min=1.0, help="Request rate to size a fleet for.")] = 1_000_000,
    busy: Annotated[float, typer.Option(min=0.01, max=1.0, help="Target utilisation of its cores.")] = 0.5,
    cores_a_machine: Annotated[int, typer.Option(min=1, help="Cores per machine.")] = 64,
    core_hour: Annotated[float, typer.Option(min=0.0, help="Price per core and hour, in $.")] = 0.04,
    figures: Annotated[Path | None, typer.Option("--json", help="A file for the figures.")] = None,
    work: Annotated[Path, typer.Option(help="A folder for logs.")] = Path("runs/savings"),
) -> None:
    """Time and score the same requests by the service, by it without semantics, and by a language model."""
    check_writable(figures)
    from msd.savings.capacity import Assumed
    from msd.savings.savings import SavingsPlan
    from msd.savings.savings import savings as measured
    from msd.savings.tables import tables

    plan = SavingsPlan(users=users, candidates=candidates)
    assumed = Assumed(requests_per_s, busy, cores_a_machine, core_hour)
    with bar() as heard:
        found = measured(data, bundle, without, llm, work, plan, assumed, heard)
    show(tables(found))
    write_figures(figures, found)
