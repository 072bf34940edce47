"""load.html: a session's figures and pictures beside those of the session before, on a page that needs no network."""

from pathlib import Path
from typing import Any

from loadtest.lab.pictures import load_picture, waterfall
from msd.contract.files import write_text_atomic
from msd.page import render_page


def write_page(path: Path, now: dict[str, Any], before: dict[str, Any] | None) -> None:
    """Draws and writes the page. before: the last session on the same traffic, if there was one."""
    page = render_page(
        "loadtest.lab",
        "page.html.j2",
        now=now,
        before=before,
        compared=compared(now, before),
        load=load_picture(now, before),
        fall=waterfall(now, before),
    )
    write_text_atomic(path, page)


def compared(now: dict[str, Any], before: dict[str, Any] | None) -> list[tuple[str, float, float | None]]:
    """The figures that one looks at first: name, now, before."""

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
