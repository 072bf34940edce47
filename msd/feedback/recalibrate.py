"""`msd recalibrate`: fit corrections of calibration to logged clicks: a shift and a slope of the log-odds, and shifts
by segment.

A logistic regression with weights that decay with an impression's age, and a normal prior around no correction.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import polars as pl
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from msd.contract.correction import (
    CONVERSIONS,
    HEAD,
    MAX_LOG_SLOPE,
    MAX_SHIFT,
    LearnedCorrection,
    read_corrections,
    write_corrections,
)
from msd.contract.state import decay
from msd.dataset.conversions import Arrival
from msd.dataset.mapped import BLOCK
from msd.feedback.collect import Logs, SettleHours, WindowHours, collected
from msd.feedback.files import FeedbackError, read_events, read_requests
from msd.feedback.impressions import Windows, join
from msd.feedback.segments import Divisions, divided, fit_segments, likelihood, stepped
from msd.metrics import sigmoid

Floats = NDArray[np.float64]
# Chosen on CoLLM's valid period: the prior's standard deviation of shift and slope, and the minimum likelihood ratio
# (as 2 log) for a change (decision 41).
_PRIOR = 0.3
_LEAST_GAIN = 1.0
_LEAST_CLICKS = 100
# Of the conversions, the share that is waited for.
_MOST = 0.95
_HALF_LIFE_DAYS = 7.0
RATE_PER_HOUR = 0.25
"""Maximum change of a correction per hour, in log-odds and in the logarithm of its slope: it takes at least four hours
to reach its bound, so that operators can react.
"""
_SURELY_SOME = 20.0
_KEPT = ("bundle_id", "correction", "heads", "slot")
# A bundle without logged requests for this many half-lives is dropped.
_HALF_LIVES = 10
# Scores of 0 and 1 have no log-odds.
_LEAST = 1e-7
app = typer.Typer(add_completion=False)


class Impressions(NamedTuple):
    """Settled impressions of one bundle, the latest last: log-odds as the model gave them, labels, users by number, and
    when they were scored (unix s); all [n]. And their segments, if these are known."""

    logits: Floats
    labels: Floats
    users: NDArray[np.int64]
    at: Floats
    divisions: Divisions | None = None

    def corrected(self, line: "_Line", segments: Mapping[str, float]) -> Floats:
        """Return corrected log-odds [n]."""
        found = line(self.logits)
        if self.divisions is None:
            return found
        return found + np.clip(line.shift + self.divisions.moved(segments), -MAX_SHIFT, MAX_SHIFT) - line.shift


class Recalibration(NamedTuple):
    """The new correction, None for none, and why. `is_broken`: the events are implausible."""

    learned: LearnedCorrection | None
    why: str
    is_broken: bool = False


class _Line(NamedTuple):
    """Maps log-odds z to centre + shift + slope × (z − centre)."""

    centre: float = 0.0
    shift: float = 0.0
    slope: float = 1.0

    def __call__(self, logits: Floats) -> Floats:
        return self.centre + self.shift + self.slope * (logits - self.centre)


@app.command("recalibrate")
def main(
    logs: Logs,
    out: Annotated[Path, typer.Option(metavar="FILE", help="MSD_CORRECTIONS of the services; updated.")],
    half_life_days: Annotated[
        float, typer.Option(min=0.01, max=1_000, help="Age in days at which an impression counts half.")
    ] = _HALF_LIFE_DAYS,
    settle_hours: SettleHours = 1.0,
    window_hours: WindowHours = 24.0,
    conversion_settle_hours: Annotated[
        float, typer.Option(min=0, help="Hours until a click can count as not converted; more if 5 % come later.")
    ] = 24.0,
) -> None:
    """Correct the calibration of served models by what was clicked, and what converted. Run it every few minutes.

    Exit status 1 if a correction was kept because clicks have stopped.
    """
    corrections = read_corrections(out)
    # A request's age is by the service's clock: times in events have no effect.
    windows = Windows(3_600 * window_hours, settle_s=3_600 * settle_hours, now=time.time())
    with collected(logs) as folders:
        joined = join(read_requests(folders, _KEPT), read_events(folders), windows, _KEPT)
    shown = _where_scored(joined.frame)
    # All impressions tell how late conversions come.
    arrival, settle_s = Arrival.of(joined.frame), 3_600 * conversion_settle_hours
    if arrival is not None:
        settle_s = max(settle_s, arrival.within(_MOST))
    half_life_s, console = 86_400 * half_life_days, Console()
    table = Table(
        "bundle", "head", "rows", "outcomes", "model ÷ outcomes", "corrected ÷ outcomes", "shift", "slope", ""
    )
    outcomes: list[Recalibration] = []
    learned = dict[str, LearnedCorrection]()
    latest = shown.lazy().group_by("bundle_id").agg(pl.col("received_at").max()).sort("received_at", "bundle_id")
    for bundle, until in latest.collect().iter_rows():
        previous = corrections.get(bundle)
        found = []
        for head, before in ((HEAD, previous), (CONVERSIONS, previous and previous.conversions)):
            due = joined.ends_at - settle_s if head == CONVERSIONS else math.inf
            own = _impressions(shown, bundle, due, head)
            if head == HEAD or len(own.labels):
                outcomes.append(learn(own, before, half_life_s))
                table.add_row(escape(bundle[:12]), head, *_cells(own, outcomes[-1]))
                before = outcomes[-1].learned
            found.append(before)
        if any(found):
            of_clicks = found[0] or LearnedCorrection(at=until, impressions=0, clicks=0)
            learned[bundle] = of_clicks.model_copy(update={"conversions": found[1]})
            told = ", ".join(f"{name} {shift:+.3f}" for name, shift in of_clicks.segments.items())
            console.print(f"Shifts of {bundle[:12]} by segment: {told or 'none'}.", highlight=False, markup=False)
    console.print(table)
    console.print(_late(shown, windows), highlight=False)
    console.print(_by_segment(shown), highlight=False, markup=False)
    newest = float(shown["received_at"].max() or 0.0)  # type: ignore[arg-type]
    kept = {one: said for one, said in read_corrections(out).items() if said.at > newest - _HALF_LIVES * half_life_s}
    write_corrections(out, kept | learned)
    if any(outcome.is_broken for outcome in outcomes):
        raise typer.Exit(1)


def _where_scored(shown: pl.DataFrame) -> pl.DataFrame:
    """Return the impressions whose scores are for the place where they were shown, or for none. Where a log has
    positions, those of unknown place are left out too. Raises FeedbackError if none is left."""
    known = bool(shown["position"].is_not_null().any())
    is_there = (pl.col("position") == pl.col("slot")).fill_null(not known)
    found = shown.filter(pl.col("slot").is_null() | is_there)
    if found.is_empty():
        raise FeedbackError("no impression was shown at the place of the page that its request was scored for")
    return found


def _impressions(shown: pl.DataFrame, bundle_id: str, until: float, head: str) -> Impressions:
    """Return one bundle's impressions that were received `until` then, or with pcvr its clicks, with the model's
    log-odds: the served correction is undone. Labels are clicks, or conversions. Memory holds numbers of all rows."""
    label, first = ("label", 0) if head == HEAD else ("conversion", 3)
    due = (pl.col("bundle_id") == bundle_id) & (pl.col("received_at") <= until)
    if head == CONVERSIONS:
        due &= (pl.col("label") == 1) & pl.col("pcvr").is_not_null()
    parts, places = [], dict[tuple[str, ...], int]()
    for rows in (rows.filter(due) for rows in shown.iter_slices(BLOCK)):
        centre, shift, slope = (
            rows["correction"].list.get(first + place, null_on_oob=True).fill_null(none).to_numpy()
            for place, none in enumerate((0.0, 0.0, 1.0))
        )
        logits = (_log_odds(rows[head].to_numpy()) - centre - shift) / slope + centre
        labels = rows[label].cast(pl.Float64) if label in rows.columns else np.zeros(rows.height)
        of = divided(rows, "slot", places)
        parts.append(rows.select("received_at", pl.col("user_id").hash(), logits=logits, labels=labels, division=of))
    numbers = pl.concat(parts).sort("received_at", maintain_order=True)
    logits, labels, at = (numbers[name].to_numpy() for name in ("logits", "labels", "received_at"))
    users, divisions = numbers["user_id"].rank("dense"), Divisions(list(places), numbers["division"].to_numpy())
    return Impressions(logits, labels, users.to_numpy().astype(np.int64), at, divisions)


def _cells(shown: Impressions, outcome: Recalibration) -> tuple[str, ...]:
    learned, clicks = outcome.learned, shown.labels.sum()
    line = LearnedCorrection(at=0, impressions=0, clicks=0) if learned is None else learned
    model = sigmoid(shown.logits).astype(np.float32)
    ratios = [f"{scores.sum() / clicks:.3f}" if clicks else "–" for scores in (model, line(model))]
    counts = f"{len(shown.labels)}", f"{clicks:.0f}"
    return *counts, *ratios, f"{line.shift:+.3f}", f"{line.slope:.3f}", outcome.why


def _late(shown: pl.DataFrame, windows: Windows) -> str:
    """Return the share of clicks that arrive after settling: the latest click rate is too low by this share."""
    delays = (
        shown.select("received_at", "click_after_s")
        .filter(pl.col("received_at") <= pl.col("received_at").max() - windows.click_s)["click_after_s"]
        .drop_nulls()
    )
    if delays.is_empty():
        return "How many clicks come later than --settle-hours is not known yet: no impression is past --window-hours."
    late = float((delays > windows.settle_s).mean())  # type: ignore[arg-type]
    return f"{late:.1%} of clicks come later than --settle-hours."


def _by_segment(shown: pl.DataFrame) -> str:
    """Return served ÷ observed clicks by segment."""
    sums = pl.concat(
        rows.select("segments", "pctr", "label").explode("segments").group_by("segments").agg(pl.len(), pl.all().sum())
        for rows in shown.iter_slices(BLOCK)
    )
    found = []
    for name, count, expected, clicks in sums.group_by("segments").sum().sort("segments").iter_rows():
        ratio = f"{expected / clicks:.3f}" if clicks else "–"
        found.append(f"{name} {ratio} ({count} impressions, {clicks} clicks)")
    return f"Served ÷ clicks: {', '.join(found)}."


def learn(shown: Impressions, previous: LearnedCorrection | None, half_life_s: float) -> Recalibration:
    """Return the correction after these impressions; `previous` is the current one."""
    clicks = int(shown.labels.sum())
    if min(clicks, len(shown.labels) - clicks) < _LEAST_CLICKS:
        return Recalibration(
            previous, f"kept: {clicks} clicks on {len(shown.labels)} impressions are too few to learn from"
        )
    current = _Line() if previous is None else _Line(previous.centre, previous.shift, previous.slope)
    held = {} if previous is None else previous.segments
    if (silent := _silent(shown.corrected(current, held), shown.labels)) is not None:
        return Recalibration(
            previous, f"kept: no click on the latest {silent} impressions; are clicks still sent?", True
        )
    now = float(shown.at[-1])
    weights = decay(now - shown.at, half_life_s)
    fitted = _fit(shown, weights)
    # Impressions of one user are correlated, and weigh less than those of different users.
    weights /= _dispersion(fitted(shown.logits), shown, weights)
    fitted = _fit(shown, weights)
    divisions = shown.divisions or Divisions.none(len(shown.labels))
    found = fit_segments(divisions, fitted(shown.logits), shown.labels, weights)
    after, before = shown.corrected(fitted, found), shown.corrected(current, held)
    gain = 2 * (likelihood(after, shown.labels, weights) - likelihood(before, shown.labels, weights))
    if gain > _LEAST_GAIN:
        since = float(shown.at[0]) if previous is None else previous.at
        most = RATE_PER_HOUR * max(0.0, now - since) / 3_600
        line, why = _step(current, fitted, most)
        # Segments without impressions keep their shifts.
        segments = held | stepped(held, found, divisions.segments, most)
    elif previous is None:
        return Recalibration(None, "none: clicks agree with the model")
    else:
        line, segments, why = current, held, "kept: clicks agree with it"
    learned = LearnedCorrection(
        **line._asdict(), segments=segments, at=now, impressions=len(shown.labels), clicks=clicks
    )
    return Recalibration(learned, why)


def learn_held_back(shown: pl.DataFrame, pctr: Floats) -> LearnedCorrection | None:
    """Return a bundle's first correction, by impressions (of `join`) that it was not trained on, and its scores [n] of
    them where they were shown; None if clicks agree with it, or are too few."""
    rows, places = shown.with_columns(pctr=pctr).sort("at"), dict[tuple[str, ...], int]()
    logits = _log_odds(rows["pctr"].to_numpy())
    labels, at = (rows[name].cast(pl.Float64).to_numpy() for name in ("label", "at"))
    of = divided(rows, "position", places).to_numpy()
    users = rows["user_id"].rank("dense").to_numpy().astype(np.int64)
    held_back = Impressions(logits, labels, users, at, Divisions(list(places), of))
    return learn(held_back, None, 86_400 * _HALF_LIFE_DAYS).learned


def _log_odds(scores: Floats) -> Floats:
    bounded = np.clip(scores, _LEAST, 1 - _LEAST)
    return np.asarray(np.log(bounded) - np.log1p(-bounded), np.float64)


def _fit(shown: Impressions, weights: Floats) -> _Line:
    """Fit the most probable line by Newton's method."""
    centre = float(np.clip(np.average(shown.logits, weights=weights), -20, 20))
    inputs_2N = np.stack([np.ones_like(shown.logits), shown.logits - centre])
    found, prior = np.zeros(2), np.eye(2) / _PRIOR**2
    for _ in range(20):
        chance = sigmoid(shown.logits + found @ inputs_2N)
        gradient = inputs_2N @ (weights * (shown.labels - chance)) - prior @ found
        curvature = (inputs_2N * (weights * chance * (1 - chance))) @ inputs_2N.T + prior
        step = np.linalg.solve(curvature, gradient)
        # An overlong first step would overshoot where the sigmoid is flat.
        found += step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-9:
            break
    return _bounded(centre, found[0], 1 + found[1])


def _dispersion(logits: Floats, shown: Impressions, weights: Floats) -> float:
    """Return the variance of sums over users, as a multiple of that of independent impressions; at least 1."""
    residuals = weights * (shown.labels - sigmoid(logits))
    return max(1.0, float((np.bincount(shown.users, residuals) ** 2).sum() / (residuals**2).sum()))


def _silent(logits: Floats, labels: Floats) -> int | None:
    """Return the number of latest impressions without a click if that is implausible; else None."""
    latest = len(labels) - 1 - int(np.flatnonzero(labels)[-1])
    return latest if latest and sigmoid(logits[-latest:]).sum() >= _SURELY_SOME else None


def _step(current: _Line, fitted: _Line, most: float) -> tuple[_Line, str]:
    """Move the current line towards the fitted one, within the rate limit."""
    centre = fitted.centre
    shift, log_slope = float(current(np.array(centre))) - centre, math.log(current.slope)
    moved = _bounded(
        centre,
        shift + float(np.clip(fitted.shift - shift, -most, most)),
        math.exp(log_slope + float(np.clip(math.log(fitted.slope) - log_slope, -most, most))),
    )
    return moved, "moved" if moved == fitted else "moved as far as the rate of change allows"


def _bounded(centre: float, shift: float, slope: float) -> _Line:
    least, most = math.exp(-MAX_LOG_SLOPE), math.exp(MAX_LOG_SLOPE)
    return _Line(centre, float(np.clip(shift, -MAX_SHIFT, MAX_SHIFT)), float(np.clip(slope, least, most)))
