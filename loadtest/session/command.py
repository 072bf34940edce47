"""`msd load`: a load session on a service, and a page that compares it with the previous session."""

import json
import webbrowser
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from loadtest.traffic import mix_of
from msd.report import bar, write_figures

app = typer.Typer(add_completion=False)


@app.command("load")
def load(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle that is served.")],
    url: Annotated[str | None, typer.Option(help="A running service. Default: start one on the bundle.")] = None,
    candidates: Annotated[
        str, typer.Option(help="Candidates per request, or weights of several sizes.")
    ] = "50:1,200:3,500:1",
    cold: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of unknown candidates.")] = 0.0,
    deadline_ms: Annotated[int | None, typer.Option(min=1, help="Deadline of the requests.")] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Duration of each part of the session.")] = 5.0,
    out: Annotated[Path, typer.Option(help="Folder for load.json and load.html.")] = Path("runs/load"),
    shows: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Load-test a service: at rest, at capacity, under Poisson arrivals and bursts."""
    mix = mix_of(candidates)
    from loadtest.processes import ours, running
    from loadtest.session.page import load_page
    from loadtest.session.session import LoadPlan, load_session

    plan = LoadPlan(mix, cold, deadline_ms, seconds)
    # Otherwise results could not be written at the end.
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        if url is None:
            (url,) = stack.enter_context(running([ours("load", bundle, "auto", None)], out))
        now = load_session(url, bundle, plan, stack.enter_context(bar(refresh=False)))
    before = last_session(out / "load.json", now)
    typer.echo(f"{now['capacity']} requests a second at capacity, p50 {now['rest']['p50_ms']} ms at rest")
    write_figures(out / "load.json", now, {".html": load_page(now, before)})
    if shows:
        webbrowser.open((out / "load.html").absolute().as_uri())


def last_session(path: Path, now: dict[str, Any]) -> dict[str, Any] | None:
    """Return the previous session on the same traffic, if there is one."""
    try:
        before: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    is_alike = isinstance(before, dict) and all(before.get(name) == now[name] for name in ("format", "traffic"))
    return before if is_alike else None
