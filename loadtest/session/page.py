"""load.html: a session's figures and pictures beside those of the previous session, on a page that needs no network."""

from typing import Any

from loadtest.session.pictures import load_picture, waterfall
from msd.page import render_page


def load_page(now: dict[str, Any], before: dict[str, Any] | None) -> str:
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


def compared(now: dict[str, Any], before: dict[str, Any] | None) -> list[tuple[str, float, float | None]]:
    """Return the main figures: name, now, before."""

    def figures(session: dict[str, Any]) -> dict[str, float]:
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
