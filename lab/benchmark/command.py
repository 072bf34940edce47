"""`msd lab benchmark`: run a benchmark, show its progress, print its figures, and write them as JSON and SVG."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lab.benchmark.collm import COLLM
from lab.benchmark.drawing import draw_benchmark
from lab.benchmark.machine import machine_now
from lab.benchmark.ml_100k import ML_100K, ML_100K_COLD
from lab.benchmark.protocol import BenchmarkError, Protocol
from lab.benchmark.run import Results, Scope, run_benchmark
from lab.benchmark.summary import summarise
from msd.contract.files import write_text_atomic
from msd.dataset.split import Part
from msd.report import show, table

_ROW_CHARS = 640
BENCHMARKS: dict[str, Protocol] = {protocol.name: protocol for protocol in (COLLM, ML_100K, ML_100K_COLD)}

app = typer.Typer(add_completion=False)


@app.command("benchmark")
def benchmark(
    name: Annotated[str, typer.Argument(metavar="NAME", help="collm-ml-1m, ml-100k or ml-100k-cold.")],
    data: Annotated[Path, typer.Argument(metavar="DATASET", help="The folder of its data.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="JSON file for the figures.")],
    work: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder for progress. Default: beside the figures.")
    ] = None,
    first: Annotated[int, typer.Option("--seed", min=0, help="The first random seed.")] = 0,
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of seeds. Default: the benchmark's.")] = None,
    variants: Annotated[
        list[str] | None, typer.Option("--model", metavar="NAME", help="Only these models. Repeatable.")
    ] = None,
    delays: Annotated[
        list[int] | None, typer.Option("--delay", metavar="S", help="Only these delays of feedback (s). Repeatable.")
    ] = None,
    test: Annotated[
        bool, typer.Option("--test", help="Measure test rows instead of valid ones: a look to count.")
    ] = False,
    resamples: Annotated[int, typer.Option(min=100, help="Number of bootstrap resamples.")] = 1_000,
) -> None:
    """Train and measure models of a benchmark on its valid rows. If interrupted, run it again to resume."""
    if name not in BENCHMARKS:
        raise BenchmarkError(f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    if not data.is_dir():
        raise BenchmarkError(f"{data}: no such folder; DATASET is where the files of {name} are")
    if out.is_dir():
        raise BenchmarkError(f"{out} is a folder; OUT is the file for the figures")
    work = work or out.with_name(f"{out.stem}.work")
    if work.exists() and not work.is_dir():
        raise BenchmarkError(f"{work} is a file; name a folder with --work")
    protocol = BENCHMARKS[name]
    known = [variant.name for variant in protocol.variants]
    for kind, asked, there in (("model", variants, known), ("delay", delays, protocol.delays_s)):
        if odd := [one for one in asked or () if one not in there]:
            raise BenchmarkError(f"there is no {kind} {odd[0]}; there are {', '.join(map(str, there))}")
    due = range(first, first + (seeds or protocol.seeds))
    scope = Scope(due, delays or protocol.delays_s, variants or (), Part.TEST if test else Part.VALID)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as bars:
        bar = bars.add_task("", total=1)

        def progress(doing: str, done: int, total: int) -> None:
            bars.update(bar, description=escape(doing), completed=done, total=total)

        results = run_benchmark(protocol, data, work / name, scope, progress)
        progress("resampling", 0, 1)
        figures = figures_of(protocol, scope, results, resamples)
    write_text_atomic(out, by_row(figures) + "\n")
    if protocol.hidden is None:
        write_text_atomic(out.with_suffix(".svg"), draw_benchmark(results, resamples))
    show(_tables(figures))
    looks = len(protocol.looks)
    typer.echo(f"protocol {protocol.sha256()[:12]}; test was looked at {looks} times before; {out} has all figures")


def figures_of(protocol: Protocol, scope: Scope, results: Results, resamples: int) -> dict[str, Any]:
    """Return the content of the JSON."""
    return {
        "benchmark": protocol.name,
        "part": scope.part.name.lower(),
        "command": shlex.join(["msd", *sys.argv[1:]]),
        "commit": _commit(),
        **summarise(protocol, results, resamples),
        "seconds": {
            # Including a first stage that is shared with another variant.
            name: round(fmean(seconds), 1)
            for name, seconds in results.seconds.items()
        },
        "machine": machine_now(),
        "knowledge": results.taught.model_dump(mode="json", exclude_defaults=True),
        "protocol": {
            "sha256": protocol.sha256(),
            "split": protocol.split,
            "rows": {str(seed): len(rows.labels) for seed, rows in results.rows.items()},
        },
    }


def by_row(figures: Any, indent: str = "") -> str:  # noqa: ANN401 - any JSON
    """Return JSON with one line for each model, and six decimals."""
    rounded = json.loads(json.dumps(figures, allow_nan=False), parse_float=lambda text: round(float(text), 6))
    whole = json.dumps(rounded)
    if not isinstance(figures, dict) or len(whole) <= _ROW_CHARS:
        return whole
    deeper = f"{indent}  "
    rows = [f"{deeper}{json.dumps(name)}: {by_row(value, deeper)}" for name, value in rounded.items()]
    return "\n".join(["{", ",\n".join(rows), f"{indent}}}"])


def _commit() -> str:
    """Return the checkout's commit, marked if it has other changes; empty outside a checkout."""
    line = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(
            line, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _tables(figures: dict[str, Any]) -> Iterator[Table]:
    """Yield a table per view."""
    for view, found in figures["views"].items():
        ours = found["model"]
        columns = ("model", "AUC", "UAUC", "AUC of requests", f"{ours} gains AUC (95 %)", "seeds")
        made = table(f"{figures['benchmark']}: {figures['part']}, {view} ({figures['gain_test']})", columns)
        for name, line in found["lines"].items():
            auc = _shown(line["auc"]) + ("" if line["auc_std"] is None else f" ±{line['auc_std']:.4f}")
            found_gain = line["gains"].get("auc", {"gain": None, "ci95": None})
            gain = _shown(found_gain["gain"], "+")
            if found_gain["ci95"]:
                gain += " ({:+.4f}, {:+.4f})".format(*found_gain["ci95"])
            others = (_shown(line.get("uauc")), _shown(line.get("request_auc")))
            made.add_row(escape(name), auc, *others, gain, str(line["seeds"]))
        yield made


def _shown(figure: float | None, sign: str = "") -> str:
    return "–" if figure is None else f"{figure:{sign}.4f}"
