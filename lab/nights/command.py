"""`msd lab nights`: simulated days with a known law, and the loop's answers to them."""

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.figure import Figure
from rich.table import Table

from lab.nights.drawing import draw_decisions
from lab.nights.large import run_large
from lab.nights.refused import WEIGHTS, run_refused
from lab.nights.show import run_nights
from lab.nights.simulated import JUDGED, Nights, run_simulated
from lab.nights.stream import run_stream
from msd.page import to_svg
from msd.report import bar, check_writable, show, table, write_figures

app = typer.Typer(add_completion=False)
_NAMES = {"never": "never retrained", "nightly": "nightly", "law": "the law"}


@app.command("nights")
def nights(
    figures: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="A JSON file for the figures; a picture goes beside it."),
    ] = None,
    work: Annotated[Path, typer.Option(help="A folder that is emptied first.")] = Path("runs/nights"),
    impressions: Annotated[int, typer.Option(min=1_000, help="Impressions of a day.")] = 20_000,
    epochs: Annotated[int, typer.Option(min=1, help="Most epochs of each training.")] = 10,
    large: Annotated[
        bool, typer.Option("--large", help="One night alone, whose log repeats real requests: its time and memory.")
    ] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="A training alone, on as many made-up events: its time and memory.")
    ] = False,
    simulated: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="N made-up nights, decided by the real gate and rollout.")
    ] = None,
    refused: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help="N refused nights of a kind: what their rows do to the next one."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of made-up nights.")] = 0,
    explored: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of judged requests that explore. Default: .01 or .1.")
    ] = None,
    judged: Annotated[int, typer.Option(min=1_000, help="Requests of a made-up night that are judged.")] = JUDGED,
) -> None:
    """Two services and `msd nightly` through a quiet day, drift, bots and a passing fad.

    Made-up nights that are interrupted go on if they have the same `--out`."""
    check_writable(figures)
    if simulated:
        _simulate(Nights(simulated, seed, judged, explored), figures)
        return
    if refused:
        with bar() as progress:
            found = run_refused(refused, seed, lambda doing: progress(doing, 0, 1))
        show([_weighed(found["refused"])])
        write_figures(figures, found)
        return
    shutil.rmtree(work, ignore_errors=True)
    run = run_stream if stream else run_large if large else run_nights
    with bar() as progress:
        found = run(work, impressions, epochs, lambda doing: progress(doing, 0, 1))
    if large or stream:
        show([_costs(found)])
        write_figures(figures, found)
        return
    show([_table(found)])
    write_figures(figures, found, {".svg": _draw(found)})


def _simulate(nights: Nights, figures: Path | None) -> None:
    with bar() as progress:
        kept = figures and figures.with_suffix(".jsonl")
        found = run_simulated(nights, lambda doing: progress(doing, 0, 1), kept)
    show([_decisions(found["table"])])
    write_figures(figures, found, {".svg": draw_decisions(found["nights"])})


def _decisions(kinds: dict[str, Any]) -> Table:
    ways = {"gate": "gate", "figures": "gate, unknown by figures", "rollout": "gate and rollout"}
    heads = [f"{way}: {what}" for way in ways.values() for what in ("right", "wrong", "lost %")]
    made = table("Promotions by kind of night", ["kind", "nights", "good", "bad", *heads])
    for kind, row in kinds.items():
        found = [f"{row[way][what]}" for way in ways for what in ("right", "wrong")]
        lost = [f"{100 * row[way]['lost']:.2f}" for way in ways]
        cells = [cell for place in range(len(ways)) for cell in (*found[2 * place : 2 * place + 2], lost[place])]
        made.add_row(kind, *(str(row[name]) for name in ("nights", "good", "bad")), *cells)
    return made


def _weighed(kinds: list[dict[str, Any]]) -> Table:
    made = table(
        "Revenue over leaving a refused night's rows out, %", ["past", "kind", *(f"weight {one:g}" for one in WEIGHTS)]
    )
    for row in kinds:
        cells = [f"{100 * one['gain']:+.2f} ± {100 * one['error']:.2f}" for one in row["gains"].values()]
        made.add_row(f"{row['past']:,}", row["kind"], *cells)
    return made


def _table(found: dict[str, Any]) -> Table:
    made = table(
        None, ["day", "served", *(f"{one}, {name}" for one in ("AUC", "ECE") for name in _NAMES), "night"], texts=2
    )
    for day in found["days"]:
        scores = [f"{day['scores'][name][metric]:.4f}" for metric in ("auc", "ece") for name in _NAMES]
        made.add_row(day["day"], day["served"], *scores, day["night"]["status"] if "night" in day else "–")
    return made


def _costs(found: dict[str, Any]) -> Table:
    made = table(f"{found['impressions']:,} impressions", ["step", "s", "CPU s", "peak MB"])
    for step, cost in found["steps"].items():
        made.add_row(step, *(str(figure) for figure in cost.values()))
    return made


def _draw(found: dict[str, Any]) -> str:
    """Return AUC, and predicted ÷ observed clicks, by day."""
    days, figure = found["days"], Figure(figsize=(8.0, 3.0), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, metric, label in zip(
        panels, ("auc", "predicted_over_observed"), ("AUC of served scores", "predicted ÷ observed clicks"), strict=True
    ):
        for (name, title), colour in zip(_NAMES.items(), ("#c46a1b", "#0b6e4f", "#3b5bdb"), strict=True):
            axes.plot([day["scores"][name][metric] for day in days], "o-", markersize=4, color=colour, label=title)
        axes.set_xticks(range(len(days)), [day["day"] for day in days])
        axes.set(ylabel=label)
    panels[0].legend(frameon=False, fontsize=8)
    return to_svg(figure)
