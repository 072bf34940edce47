"""`msd recalibrate`: fits corrections of calibration to request logs, and writes the file that services read."""

from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
import typer
from rich.console import Console
from rich.table import Table

from msd.contract.correction import LearnedCorrection, read_corrections, write_corrections
from msd.feedback.files import FeedbackError, read_events, read_requests, request_files
from msd.feedback.impressions import join
from msd.feedback.recalibrate import Impressions, Recalibration, learn

_KEPT = ("bundle_id", "received_at", "correction", "is_lean")
# A bundle without logged requests for this many half-lives is dropped.
_HALF_LIVES = 10
# Scores of 0 and 1 have no log-odds.
_LEAST = 1e-7
app = typer.Typer(add_completion=False)


@app.command("recalibrate")
def main(
    logs: Annotated[list[Path], typer.Argument(metavar="LOG…", help="MSD_LOG_DIR of each service that is corrected.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="MSD_CORRECTIONS of the services; updated.")],
    half_life_days: Annotated[
        float, typer.Option(min=0.01, max=1_000, help="Age in days at which an impression counts half.")
    ] = 7.0,
    settle_hours: Annotated[
        float, typer.Option(min=0, help="Hours until an impression without a click counts as not clicked.")
    ] = 1.0,
    window_hours: Annotated[
        float, typer.Option(min=0, help="Hours after an impression in which its click counts.")
    ] = 24.0,
) -> None:
    """Corrects the calibration of served models by what was clicked. Run it every few minutes.

    Exit status 1 if a correction was kept because clicks have stopped.
    """
    corrections = read_corrections(out)
    shown = _settled(logs, 3_600 * window_hours, 3_600 * settle_hours)
    half_life_s, console = 86_400 * half_life_days, Console()
    table = Table("bundle", "impressions", "clicks", "model ÷ clicks", "corrected ÷ clicks", "shift", "slope", "")
    outcomes: dict[str, Recalibration] = {}
    for (bundle_id,), frame in shown.sort("received_at").group_by("bundle_id", maintain_order=True):
        impressions, bundle = _impressions(frame), str(bundle_id)
        outcomes[bundle] = learn(impressions, corrections.get(bundle), half_life_s)
        table.add_row(bundle[:12], *_told(impressions, outcomes[bundle]))
    console.print(table)
    console.print(_late(shown, 3_600 * window_hours, 3_600 * settle_hours), highlight=False)
    newest = float(shown["received_at"].max() or 0.0)  # type: ignore[arg-type]
    kept = {one: said for one, said in corrections.items() if said.at > newest - _HALF_LIVES * half_life_s}
    learned = {one: outcome.learned for one, outcome in outcomes.items() if outcome.learned is not None}
    write_corrections(out, kept | learned)
    if any(outcome.is_broken for outcome in outcomes.values()):
        raise typer.Exit(1)


def _settled(logs: list[Path], window_s: float, settle_s: float) -> pl.DataFrame:
    """Return impressions whose requests are old enough for their clicks to have arrived, and were scored by the full
    model: a correction is of that one.

    A request's age is by the service's clock: times in events have no effect.
    """
    more = ("bundle_id", "correction", "is_lean")
    requests = (read_requests(file, more) for log in logs for file in request_files(log))
    told = [log for log in logs if log.is_file() or any(log.glob("events-*.parquet"))] or logs
    events = pl.concat([read_events(log) for log in told])
    joined = join(requests, events, window_s, _KEPT).frame.filter(pl.col("is_lean").fill_null(False).not_())
    settled = joined.filter(pl.col("received_at") <= pl.col("received_at").max() - settle_s)
    if settled.is_empty():
        raise FeedbackError(
            f"none of {joined.height} impressions is settled: the log spans less than --settle-hours"
            f" ({settle_s / 3_600:g}); run it later"
        )
    return settled


def _impressions(frame: pl.DataFrame) -> Impressions:
    """Return one bundle's impressions with the model's log-odds: the served correction is undone."""
    pctr = np.clip(frame["pctr"].to_numpy(), _LEAST, 1 - _LEAST)
    centre, shift, slope = (
        frame["correction"].list.get(place, null_on_oob=True).fill_null(none).to_numpy()
        for place, none in enumerate((0.0, 0.0, 1.0))
    )
    return Impressions(
        (np.log(pctr) - np.log1p(-pctr) - centre - shift) / slope + centre,
        frame["label"].to_numpy().astype(np.float64),
        frame["user_id"].rank("dense").to_numpy().astype(np.int64),
        frame["received_at"].to_numpy(),
    )


def _told(shown: Impressions, outcome: Recalibration) -> tuple[str, ...]:
    learned, clicks = outcome.learned, shown.labels.sum()
    line = LearnedCorrection(at=0, impressions=0, clicks=0) if learned is None else learned
    model = (1 / (1 + np.exp(-shown.logits))).astype(np.float32)
    ratios = [f"{scores.sum() / clicks:.3f}" if clicks else "–" for scores in (model, line(model))]
    counts = f"{len(shown.labels)}", f"{clicks:.0f}"
    return *counts, *ratios, f"{line.shift:+.3f}", f"{line.slope:.3f}", outcome.why


def _late(shown: pl.DataFrame, window_s: float, settle_s: float) -> str:
    """Return the share of clicks that arrive after settling: the latest click rate is too low by this share."""
    whole = shown.filter(pl.col("received_at") <= pl.col("received_at").max() - window_s)
    delays = whole["click_after_s"].drop_nulls()
    if delays.is_empty():
        return "How many clicks come later than --settle-hours is not known yet: no impression is past --window-hours."
    late = float((delays > settle_s).mean())  # type: ignore[arg-type]
    return f"{late:.1%} of clicks come later than --settle-hours."
