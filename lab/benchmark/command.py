"""`msd lab benchmark`: run a benchmark, show its progress, and write its figures as JSON and as a page."""

import json
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lab.benchmark.collm import COLLM
from lab.benchmark.machine import machine
from lab.benchmark.ml_100k import ML_100K, ML_100K_COLD
from lab.benchmark.protocol import BenchmarkError, Protocol
from lab.benchmark.report import tables, write_report
from lab.benchmark.run import Results, run_benchmark
from lab.benchmark.summary import summarise
from lab.benchmark.summary_by_seed import summarise_by_seed
from msd.contract.files import write_text_atomic

BENCHMARKS: dict[str, Protocol] = {protocol.name: protocol for protocol in (COLLM, ML_100K, ML_100K_COLD)}


class Bars:
    """Two progress bars: of all models, and of the current model."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, console=console)
        self._all = self.progress.add_task("", total=1)
        self._one = self.progress.add_task("", total=1)

    def part(self, name: str, done: int, total: int) -> None:
        """Update the bar of all models."""
        self.progress.update(self._all, description=escape(name), completed=done, total=total)

    def advance(self, doing: str, done: int, total: int) -> None:
        """Update the bar of the current model."""
        self.progress.update(self._one, description=escape(doing), completed=done, total=total)


app = typer.Typer(add_completion=False)


@app.command("benchmark")
def benchmark(
    name: Annotated[str, typer.Argument(metavar="NAME", help="collm-ml-1m, ml-100k or ml-100k-cold.")],
    data: Annotated[Path, typer.Argument(metavar="DATASET", help="The folder of its data.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="JSON file for the figures; a page goes beside it.")],
    work: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder for progress. Default: beside the figures.")
    ] = None,
    first: Annotated[int, typer.Option("--seed", min=0, help="The first random seed.")] = 0,
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of seeds. Default: the benchmark's.")] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Number of bootstrap resamples.")] = 1_000,
) -> None:
    """Train and measure all models of a benchmark. If interrupted, run it again to resume."""
    protocol = _protocol(name)
    if not data.is_dir():
        raise BenchmarkError(f"{data}: no such folder; DATASET is where the files of {name} are")
    if out.is_dir():
        raise BenchmarkError(f"{out} is a folder; OUT is the file for the figures")
    if out.suffix == ".html":
        raise BenchmarkError(f"{out}: the page is written there; OUT must end in .json")
    work = work or out.with_name(f"{out.stem}.work")
    if work.exists() and not work.is_dir():
        raise BenchmarkError(f"{work} is a file; name a folder with --work")
    console = Console()
    bars = Bars(console)
    with bars.progress:
        due = range(first, first + (seeds or protocol.seeds))
        results = run_benchmark(protocol, data, work / name, due, bars)
        bars.advance("resampling", 0, 1)
        figures = figures_of(protocol, results, resamples)
        bars.advance("resampling", 1, 1)
    write_text_atomic(out, json.dumps(figures, indent=2, allow_nan=False) + "\n")
    write_report(page := out.with_suffix(".html"), figures)
    _print(console, figures)
    console.print(f"{out} has all figures, {page} draws them", highlight=False, markup=False)


def _protocol(name: str) -> Protocol:
    if name not in BENCHMARKS:
        raise BenchmarkError(f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def figures_of(protocol: Protocol, results: Results, resamples: int) -> dict[str, Any]:
    """Return the content of the JSON."""
    return {
        "benchmark": protocol.name,
        **(summarise_by_seed(protocol, results) if protocol.rows_vary else summarise(protocol, results, resamples)),
        "seconds": _seconds(results),
        "machine": machine(),
        "knowledge": results.taught.model_dump(mode="json"),
        "protocol": {
            "sha256": protocol.sha256(),
            "test_looks": list(protocol.looks),
            "split": protocol.split,
            "test_rows": {str(seed): len(rows.labels) for seed, rows in results.rows.items()},
            "seeds": {name: sorted(by_seed) for name, by_seed in results.found.items()},
            "frozen": protocol.frozen(),
        },
    }


def _seconds(results: Results) -> dict[str, Any]:
    """Return the seconds of each variant, including a first stage shared with another; and of all, with shared stages
    counted once."""
    every = [one for by_seed in results.found.values() for one in by_seed.values()]
    return {
        "all": round(results.distilling + sum(one.own for one in every), 1),
        "distilling": round(results.distilling, 1),
        "a_seed": {
            name: round(fmean(one.seconds for one in by_seed.values()), 1) for name, by_seed in results.found.items()
        },
    }


def _print(console: Console, figures: dict[str, Any]) -> None:
    for title, one in tables(figures).items():
        _print_table(console, title, one, len(figures["protocol"]["seeds"][one["model"]]))
    protocol = figures["protocol"]
    console.print(f"protocol {protocol['sha256'][:12]}; test was looked at {len(protocol['test_looks'])} times before")


def _print_table(console: Console, title: str, figures: dict[str, Any], seeds: int) -> None:
    ours = {"auc": figures["auc_mean"], "auc_std": figures["auc_std"], "uauc": figures.get("uauc_mean"), "seeds": seeds}
    table = Table(title=title, title_justify="left", box=None, caption=figures["gain_test"], caption_justify="left")
    for column in ("model", "AUC", "UAUC", f"{figures['model']} gains (95 %)", "seeds"):
        table.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    for name, entry in {figures["model"]: ours, **figures["baselines"], **figures["ablations"]}.items():
        auc = _shown(entry["auc"]) if entry["auc_std"] is None else f"{entry['auc']:.4f} ±{entry['auc_std']:.4f}"
        gain = _shown(entry.get("gain"), "+")
        if entry.get("gain_ci95"):
            gain += " ({:+.4f}, {:+.4f})".format(*entry["gain_ci95"])
        table.add_row(escape(name), auc, _shown(entry.get("uauc")), gain, str(entry["seeds"]))
    console.print(table)


def _shown(figure: float | None, sign: str = "") -> str:
    return "–" if figure is None else f"{figure:{sign}.4f}"
