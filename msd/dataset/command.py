"""Command `msd data`: fetch the example dataset and samples of ad logs, make one from any log, check any."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from msd.dataset.check import DatasetReport, check_dataset
from msd.dataset.log.draft import NO_USER, Draft
from msd.dataset.log.remote import local_copies
from msd.dataset.log.roles import RoleName
from msd.dataset.log.scaffold import SourceFiles, init_dataset
from msd.dataset.ml_100k import write_ml_100k
from msd.dataset.problem import Doubt, lines_of
from msd.dataset.samples import AVAZU, CRITEO, WHEEL, Sample, write_open_bandit, write_sample
from msd.dataset.upworthy import write_headline_tests

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Datasets: fetch the example, make and check your own."
)
_SHOWN = 100
Made = TypeVar("Made")
_TABLE_HELP = (
    "Your events: CSV, Parquet, JSON or Avro, also packed by gzip, or a folder of such files; also s3:// and gs://."
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The dataset's folder.")]
Into = Annotated[Path, typer.Argument(metavar="DIR", help="The folder for the file.")]
Files = Annotated[
    list[Path] | None, typer.Option("--file", metavar="PATH", help="Your download of each part, in the log's order.")
]


@app.command("ml-100k")
def ml_100k(
    folder: Folder,
    wheel: Annotated[Path | None, typer.Option(help="The recbole wheel, if pip cannot reach a package index.")] = None,
    conversions: Annotated[
        bool, typer.Option("--conversions", help="Let a click with 5 stars be one that converted.")
    ] = False,
) -> None:
    """Write MovieLens-100K as a dataset folder; its dataset.toml explains each key."""
    console = Console()
    with console.status("Fetching MovieLens-100K"):
        written = write_ml_100k(folder, wheel, conversions=conversions)
    console.print(
        f"{folder}: {'written' if written else 'was there already, unchanged'}", highlight=False, soft_wrap=True
    )


@app.command("avazu-sample")
def avazu_sample(folder: Into, file: Files = None) -> None:
    """Fetch a log of Avazu: 20,000 impressions of ten days, for `msd quickstart DIR/avazu.csv`."""
    _say_sample(folder, AVAZU, file)


@app.command("criteo-sample")
def criteo_sample(folder: Into, file: Files = None) -> None:
    """Fetch a log of Criteo: 8,000 impressions without names of columns, for `msd quickstart DIR/criteo.tsv`."""
    _say_sample(folder, CRITEO, file)


def _say_sample(folder: Path, sample: Sample, files: list[Path] | None) -> None:
    written = write_sample(folder, sample, files or ())
    typer.echo(f"{folder / sample.name}: {'written' if written else 'was there already, unchanged'}")


@app.command("open-bandit")
def open_bandit(
    folder: Folder,
    wheel: Annotated[Path | None, typer.Option(help=f"The wheel of {WHEEL}, if pip cannot reach an index.")] = None,
) -> None:
    """Write 60,000 impressions of Open Bandit (CC BY 4.0), with positions and propensities, as a dataset folder."""
    written = write_open_bandit(folder, wheel)
    typer.echo(f"{folder}: {'written' if written else 'was there already, unchanged'}")


@app.command("headlines")
def headlines(
    folder: Folder,
    archive: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Your download of the Upworthy Research Archive. Default: invented tests."),
    ] = None,
) -> None:
    """Write randomised tests of headlines as a dataset folder: those of an archive, or invented ones."""
    counts = write_headline_tests(folder, archive)
    if archive is None:
        typer.echo("These headlines and their clicks are INVENTED; --archive takes your download of osf.io/jd64p.")
    if counts is None:
        typer.echo(f"{folder}: was there already, unchanged")
        return
    for part in ("train", "valid", "test"):
        tests, shown, seen = (counts[f"{part} {name}"] for name in ("tests", "headlines", "shown"))
        typer.echo(f"{part}: {tests:,} tests of {shown:,} headlines, {seen:,} impressions")


@app.command("init")
def init(
    context: typer.Context,
    table: Annotated[str, typer.Argument(metavar="TABLE", help=_TABLE_HELP)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder for the dataset: new or empty.")],
    items: Annotated[str | None, typer.Option(metavar="FILE", help="A table with one row an item.")] = None,
    users: Annotated[str | None, typer.Option(metavar="FILE", help="A table with one row a user.")] = None,
    user: Annotated[str | None, typer.Option(metavar="COLUMN", help="Who saw it.")] = None,
    item: Annotated[str | None, typer.Option(metavar="COLUMN", help="What was shown.")] = None,
    time: Annotated[str | None, typer.Option(metavar="COLUMN", help="When.")] = None,
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="Whether it was clicked.")] = None,
    impressions: Annotated[str | None, typer.Option(metavar="COLUMN", help="Number of impressions of a row.")] = None,
    clicks: Annotated[str | None, typer.Option(metavar="COLUMN", help="Number of clicks among them.")] = None,
    conversion: Annotated[str | None, typer.Option(metavar="COLUMN", help="Whether a click converted.")] = None,
    converted_at: Annotated[str | None, typer.Option(metavar="COLUMN", help="When it converted.")] = None,
    kind: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Whether a row is an impression, a click or a conversion.")
    ] = None,
    request: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="ID that an impression, its click and its conversion share.")
    ] = None,
    clicked: Annotated[
        str | None, typer.Option(metavar="FILE", help="A table of the clicks; TABLE then has the impressions.")
    ] = None,
    converted: Annotated[str | None, typer.Option(metavar="FILE", help="A table of the conversions.")] = None,
    time_format: Annotated[
        str | None, typer.Option(metavar="FORMAT", help='How times are written, as "%d.%m.%Y %H:%M".')
    ] = None,
    leave_out: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="A column to ignore.")] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="A doubtful column that is known before the impression."),
    ] = None,
    no_time: Annotated[bool, typer.Option("--no-time", help="Use row order as time.")] = False,
    no_user: Annotated[bool, typer.Option("--no-user", help="Each row is an anonymous person.")] = False,
    decimal: Annotated[
        str | None, typer.Option(metavar="MARK", help='The mark of decimals, "," or ".", if numbers leave it open.')
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(metavar="NAME", help="The encoding of text files, as latin-1, cp1252 or utf-16.")
    ] = None,
    position: Annotated[
        str | None, typer.Option(metavar="COLUMN", help='The ad\'s position, known only afterwards, or "none".')
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=1_000, metavar="N", help="Draw about N rows at random, if there are more.")
    ] = None,
) -> None:
    """Make a dataset folder from any log: guess what each column is, say why, and ask where in doubt."""
    if time and no_time:
        raise typer.BadParameter("--time and --no-time contradict each other; give only one")
    if no_user and (user or users):
        raise typer.BadParameter("--no-user contradicts --user and --users; give one of them")
    if converted and not clicked:
        raise typer.BadParameter("--converted needs --clicked too: conversions are those of clicks")
    if decimal not in (None, ".", ","):
        raise typer.BadParameter(f"--decimal {decimal}: is neither a point nor a comma")
    console, given = Console(), context.params
    with local_copies((table, items, users, clicked, converted)) as (log, *others):
        assert log is not None
        draft, report = _ask(console, given, lambda: _init(SourceFiles(log, *others), given))
    _print_draft(draft, console)
    _print(report, console)
    if report.problems:
        raise typer.Exit(1)
    console.print(f"{out}: written; read the reasons in dataset.toml", highlight=False, soft_wrap=True)


def _init(sources: SourceFiles, given: Mapping[str, Any]) -> tuple[Draft, DatasetReport]:
    """Make the dataset by the values of all options."""
    chosen: dict[RoleName, str] = {role: given[role] for role in get_args(RoleName) if given[role] is not None}
    names = ("no_user", "sample", "time_format", "decimal", "encoding", "position")
    options: dict[str, Any] = {name: given[name] for name in names}
    options |= {name: given[name] or () for name in ("leave_out", "keep")}
    return init_dataset(sources, given["out"], chosen, in_order=given["no_time"], **options)


def _ask(console: Console, given: dict[str, Any], make: Callable[[], Made]) -> Made:
    """Return what `make` makes once the questions that it raises have answers: on a terminal, a person's."""
    while True:
        try:
            with console.status("Reading"):
                return make()
        except Doubt as doubt:
            if not sys.stdin.isatty():
                raise
            console.print(f"{doubt.question}.", markup=False, highlight=False, soft_wrap=True)
            for choice, meaning in doubt.choices.items():
                console.print(f"  {choice}{f'  {meaning}' if meaning else ''}", markup=False, highlight=False)
            given[doubt.option] = typer.prompt(f"--{doubt.option.replace('_', '-')}")


def _print_draft(draft: Draft, console: Console) -> None:
    table = Table("column", "taken for", "known before", "evidence", title="Columns", box=None)
    for role, found in draft.roles.items():
        table.add_row(*map(escape, (found.column, role.replace("_", " "), "–", found.reason)))
    if "user" not in draft.roles:
        table.add_row("–", "user", "–", f"[bold]no user was found[/bold]: {NO_USER}")
    if "time" not in draft.roles:
        table.add_row("–", "time", "–", "[bold]no time was found[/bold]: the order of the rows stands for it")
    for feature in draft.features:
        table.add_row(*map(escape, (feature.source, f"{feature.side} {feature.kind}", feature.known, feature.reason)))
    for left in draft.left_out:
        table.add_row(escape(left.source), "[dim]left out[/dim]", left.known, escape(left.reason))
    console.print(table)
    for note in draft.notes:
        console.print(f"[bold]note[/bold] {escape(note)}", highlight=False, soft_wrap=True)
    console.print(f"item text: {escape(draft.items.text or draft.items.reason)}", highlight=False, soft_wrap=True)
    if draft.users:
        console.print(f"user text: {escape(draft.users.text or draft.users.reason)}", highlight=False, soft_wrap=True)


@app.command("check")
def check(
    folder: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON.")] = False,
) -> None:
    """Check a dataset: every problem with file, row and column, and counts. Exit status 1 if there are problems."""
    report = check_dataset(folder)
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=2, ensure_ascii=False))
    else:
        _print(report, Console())
    if report.problems:
        raise typer.Exit(1)


def _print(report: DatasetReport, console: Console) -> None:
    if count := len(report.problems):
        console.print(f"[bold red]{count} problem{'s' * (count > 1)}[/bold red]")
        for line in lines_of(report.problems, _SHOWN):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        if count > _SHOWN:
            console.print("--json lists them all")
    if report.counts:
        table = Table("count", "value", title="Rows that are in order" if report.problems else "No problems")
        for name, value in report.counts.items():
            if value is not None:
                table.add_row(name.replace("_", " "), escape(str(value)))
        console.print(table)
    for note in report.notes:
        console.print(f"[bold]note[/bold] {escape(note)}", highlight=False, soft_wrap=True)
