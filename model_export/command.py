"""`msd export`: a trained ranker with its student and dataset as a proved bundle."""

import time
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from model_export.export import export_bundle
from model_export.foreign.source import load_foreign
from model_export.inputs import own_recipe
from model_export.recipe import Recipe
from msd.contract.bundle import open_bundle
from msd.contract.precision import HeadFigures, PrecisionRecord
from msd.contract.uncertainty import Uncertainty
from msd.report import bar, table

app = typer.Typer(add_completion=False)


class PrecisionOption(StrEnum):
    """Values of `--precision`."""

    FP32 = "fp32"
    INT8 = "int8"
    BF16 = "bf16"
    AUTO = "auto"


@app.command("export")
def export(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="DATASET [KNOWLEDGE] [STUDENT] MODEL OUT",
            help="Output folders of `msd data`, `teach`, `distill` and `train`, and the bundle's folder. Four are "
            "DATASET STUDENT MODEL OUT, three DATASET MODEL OUT.",
        ),
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="evaluation.json of `msd evaluate`, for the manifest.")
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Your own ranker; the folders are then DATASET OUT.")
    ] = None,
    tensors: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --onnx: the output of `msd tensors`, if it has vectors.")
    ] = None,
    student: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --tensors: the student that made the vectors.")
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(metavar="HEAD=OUTPUT", help="With --onnx: the graph's output for each head, pctr first."),
    ] = None,
    columns: Annotated[
        str, typer.Option(metavar="NAME,NAME…", help="With --onnx: the columns of the graph's only input, in order.")
    ] = "",
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the verified requests, for `msd replay`.")
    ] = None,
    precision: Annotated[
        PrecisionOption, typer.Option(help="fp32, int8, bf16, or auto: the fastest that scores as well as fp32.")
    ] = PrecisionOption.FP32,
    candidates: Annotated[
        int,
        typer.Option(
            min=1, max=100_000, help="Typical number of candidates per request, for which graphs are optimised."
        ),
    ] = 200,
    explain: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write what was factorised in the graph, what was not and why, as JSON."
        ),
    ] = None,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Also measure how uncertain scores are, for exploration.")
    ] = False,
    requests: Annotated[int, typer.Option(min=1, help="Number of test rows to verify the graph on.")] = 2_400,
    like: Annotated[
        Path | None,
        typer.Option(metavar="BUNDLE", help="Take the form of the graph and the precision of an earlier bundle."),
    ] = None,
) -> None:
    """Export graphs and rows, prove them equal to the model on test rows, and write the bundle.

    Of MSD's own ranker by its folders, or of any two-sided ONNX graph by --onnx FILE DATASET OUT.
    """
    start, console = time.perf_counter(), Console()
    if onnx is None:
        if tensors or student or head or columns:
            raise typer.BadParameter("--tensors, --student, --head and --columns are for --onnx")
        made, folder = _own(folders, evaluation)
    else:
        if len(folders or []) != 2 or not folders or evaluation:
            raise typer.BadParameter("--onnx FILE takes two folders, DATASET OUT, and no --evaluation")
        dataset, folder = folders
        names = [name for part in columns.split(",") if (name := part.strip())]
        made = load_foreign(onnx, dataset, tensors, student, _heads(head or []), names)
    with bar(console) as heard:
        advance = partial(heard, total=requests)
        fresh = export_bundle(
            made, folder, replay, requests, advance, precision.value, candidates, explain, uncertainty, like
        )
    _tell(console, folder, "written" if fresh else "done before", time.perf_counter() - start)


def _own(folders: list[Path] | None, evaluation: Path | None) -> tuple[Recipe, Path]:
    """Load three to five folders; return their contents and the bundle's folder."""
    given = folders or []
    if not 3 <= len(given) <= 5:
        raise typer.BadParameter(
            "give DATASET KNOWLEDGE STUDENT MODEL OUT, DATASET STUDENT MODEL OUT where no teacher wrote, or DATASET "
            f"MODEL OUT without a student; {len(given)} folders are given"
        )
    knowledge, student = given[1] if len(given) > 4 else None, given[-3] if len(given) > 3 else None
    return own_recipe(given[0], knowledge, student, given[-2], evaluation), given[-1]


def _tell(console: Console, folder: Path, done: str, seconds: float) -> None:
    bundle = open_bundle(folder)
    parity = bundle.manifest.provenance["parity"]
    console.print(
        f"{folder}: bundle {bundle.bundle_id}, {done}; onnxruntime and {parity['against']} differ by "
        f"{parity['max_abs_diff']:.1e} at most over {parity['requests']} requests ({seconds:.1f} s)",
        highlight=False,
    )
    console.print(_told(bundle.manifest.provenance["graph"]), highlight=False)
    if bundle.manifest.uncertainty:
        console.print(_covered(bundle.manifest.uncertainty))
    if bundle.precision.tried:
        console.print(_table(bundle.precision))


def _heads(given: list[str]) -> dict[str, str]:
    heads = dict(one.partition("=")[::2] for one in given)
    if wrong := [one for one in given if not all(one.partition("=")[::2])]:
        raise typer.BadParameter(f"--head {wrong[0]}: give HEAD=OUTPUT, such as pctr=score")
    return heads


def _told(graph: dict[str, Any]) -> str:
    times = graph["microseconds"]
    plain, served = times["plain"], times[graph["served"]]
    told = f"the graph runs {graph['candidates']} candidates in {served:.0f} µs"
    if graph["served"] == "plain":
        return f"{told} as it was traced; with shared work done once, in {times['passed']:.0f} µs"
    return f"{told}, with shared work done once; as it was traced, in {plain:.0f} µs ({plain / served:.2f} ×)"


def _covered(uncertainty: Uncertainty) -> Table:
    columns = ("ads", "number", "median std of log-odds", "50 % interval", "90 % interval")
    made = table("Held-out ads whose clicks lie in what is predicted of them", columns)
    for name, one in uncertainty.coverage.items():
        shares = (f"{100 * share:.1f} %" for share in (one.within_50, one.within_90))
        made.add_row(name, str(one.items), f"{one.median_std:.3f}", *shares)
    return made


def _table(precision: PrecisionRecord) -> Table:
    title = f"{precision.chosen} chosen; {precision.valid_rows} valid rows, {precision.candidates} candidates"
    columns = ("precision", "µs a run", "AUC", "logloss", "ECE", "predicted/observed", "refused because")
    made = table(title, columns, texts=len(columns))
    for name, one in precision.tried.items():
        figures = one.figures
        cells = [f"{figures.microseconds:.0f}", *_measured(figures)] if figures else ["-"] * 5
        made.add_row(name, *cells, one.refused or "")
        if one.pcvr:
            made.add_row(f"{name}, pcvr", "", *_measured(one.pcvr), "")
    return made


def _measured(figures: HeadFigures) -> list[str]:
    ratio = f"{figures.predicted_over_observed:.4f}"
    return [f"{figures.auc:.5f}", f"{figures.logloss:.5f}", f"{figures.ece:.4f}", ratio]
