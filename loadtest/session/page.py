"""load.html: a session's figures and pictures beside those of the previous session, on a page that needs no network."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from msd.page import render_page, to_svg

Session = Mapping[str, Any]
_SHOWN = 0.02


def load_page(now: Session, before: Session | None) -> str:
    """Return the page. before: the previous session on the same traffic, if there is one."""
    return render_page(
        "loadtest.session",
        "page.html.j2",
        now=now,
        before=before,
        compared=compared(now, before),
        load=load_picture(now, before),
        fall=waterfall(now, before),
    )


def compared(now: Session, before: Session | None) -> list[tuple[str, float, float | None]]:
    """Return the main figures: name, now, before."""

    def figures(session: Session) -> dict[str, float]:
        found = {
            "requests a second at capacity": session["capacity"],
            "p50 at rest, ms": session["rest"]["p50_ms"],
            "p99 at rest, ms": session["rest"]["p99_ms"],
        }
        for point in [*session["curve"], session["bursts"]]:
            if point["p99_ms"] is not None:
                name = f"at {point['load']:.0%} of capacity" if "load" in point else "in bursts"
                found[f"p99 {name}, ms"] = point["p99_ms"]
        return found

    last = figures(before) if before else {}
    return [(name, value, last.get(name)) for name, value in figures(now).items()]


def latency_against_load(
    curves: Iterable[tuple[str, str, Sequence[Session]]], capacities: Mapping[str, float], size: tuple[float, float]
) -> str:
    """Draw p50 and p99 by offered rate. curves: name prefix, colour, points; capacities: by colour."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    for name, colour, points in curves:
        for percentile, style in (("p50_ms", "-"), ("p99_ms", "--")):
            known = [(point["rate"], point[percentile]) for point in points if point[percentile] is not None]
            rates, values = [rate for rate, _ in known], [value for _, value in known]
            axes.plot(rates, values, style, c=colour, marker="o", ms=3, label=f"{name}{percentile[:3]}")
    for colour, capacity in capacities.items():
        axes.axvline(capacity, color=colour, lw=0.8, ls=":")
    axes.set_xlim(left=0)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    told = " (dotted: capacity)" if capacities else ""
    axes.set_xlabel(f"requests offered a second, Poisson arrivals{told}")
    axes.set_ylabel("milliseconds, from when it was due")
    axes.legend(frameon=False)
    return to_svg(figure)


def load_picture(now: Session, before: Session | None) -> str:
    """Draw latency against load, with capacity as a line."""
    sessions = _sessions(now, before)
    curves = [(name, colour, session["curve"]) for session, colour, name in sessions]
    return latency_against_load(curves, {colour: one["capacity"] for one, colour, _ in sessions}, (5.2, 3.8))


def waterfall(now: Session, before: Session | None) -> str:
    """Draw the stages of a request at rest as a waterfall."""
    sessions = _sessions(now, before)
    figure = Figure(figsize=(5.2, 0.42 * len(sessions) * len(now["rest"]["stages_ms"]) + 0.8), layout="constrained")
    for axes, (session, colour, name) in zip(
        figure.subplots(len(sessions), squeeze=False, sharex=True)[:, 0], sessions, strict=True
    ):
        _fall(axes, session["rest"]["stages_ms"], colour)
        axes.set_title(f"{name or 'one request at rest, '}means, milliseconds", loc="left", fontsize=9)
    return to_svg(figure)


def _fall(axes: Axes, stages: Mapping[str, float], colour: str) -> None:
    start, whole = 0.0, sum(max(0.0, taken) for taken in stages.values())
    for row, taken in enumerate(stages.values()):
        axes.barh(row, max(0.0, taken), left=start, color=colour, height=0.7)
        start += max(0.0, taken)
        axes.text(start + _SHOWN / 2 * whole, row, f"{taken:.2f}", va="center", fontsize=7)
    axes.set_yticks(range(len(stages)), list(stages), fontsize=8)
    axes.margins(x=0.1)
    axes.set_xlim(left=0)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)


def _sessions(now: Session, before: Session | None) -> list[tuple[Session, str, str]]:
    """Return sessions with colour and name prefix."""
    if before is None:
        return [(now, "C0", "")]
    return [(now, "C0", "now, "), (before, "#9ca3af", "before, ")]
