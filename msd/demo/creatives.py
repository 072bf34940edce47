"""`msd demo-creatives`: predict which headline of a randomised test is clicked most, from the log to a served reply."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from msd.contract.files import write_text_atomic
from msd.dataset.aggregate import count_clicks
from msd.dataset.load import Dataset, load_dataset
from msd.demo.service import DemoError, score_texts, serve
from msd.demo.steps import Steps
from msd.evaluation.verdict import say_verdict

app = typer.Typer(add_completion=False)
_STEPS = 5
_LAYERS = "3"  # of the encoder: the upper ones lose how a headline is worded
_INVENTED = (
    "These headlines and their clicks are INVENTED, by a law that the figures can find; --archive takes real ones."
)


@app.command("demo-creatives")
def demo_creatives(
    out: Annotated[Path, typer.Option(help="Output folder; finished steps are reused.")] = Path("runs/demo-creatives"),
    archive: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Your download of the Upworthy Research Archive. Default: invented tests."),
    ] = None,
) -> None:
    """Train, measure, export and serve on tests of headlines, each of them new; write creatives.json."""
    start, console = time.perf_counter(), Console(highlight=False)
    steps = Steps(console, _STEPS)
    dataset, student, figures, bundle = (out / name for name in ("dataset", "student", "evaluation", "bundle"))
    model = out / "models/text"
    given: list[str | Path] = ["--archive", archive] if archive else []
    steps.run("data", "data", "headlines", dataset, *given)
    steps.run("distill", "distill", dataset, student, "--layers", _LAYERS)
    steps.run("train", "train", dataset, student, model, "--network", "content")
    steps.run("evaluate", "evaluate", dataset, student, figures, "--model", model, "--texts")
    evaluation = figures / "evaluation.json"
    steps.run("export", "export", dataset, student, model, bundle, "--evaluation", evaluation)
    measured = json.loads(evaluation.read_text("utf-8"))
    with serve(bundle, out / "logs/service.log", MSD_ENCODER="on") as (url, _):
        shown = _score_a_test(load_dataset(dataset), url)
    summary = {
        "invented": archive is None,
        "within": measured["within"],
        "verdict": say_verdict(measured),
        "pooled": {name: figures["metrics"] for name, figures in measured["models"].items()},
        "how_sure": measured["models"]["text"]["how_sure"],
        "shown": shown,
        "steps": steps.seconds,
        "seconds": round(time.perf_counter() - start, 1),
    }
    write_text_atomic(out / "creatives.json", json.dumps(summary, indent=2) + "\n")
    _print(console, out, summary)


def _score_a_test(dataset: Dataset, url: str) -> list[dict[str, Any]]:
    """Score the headlines of the test part's largest test as new ads, by their texts alone; return them best first."""
    events = dataset.events.filter(part="test")
    if events.is_empty():
        raise DemoError("the test part is empty")
    seen = {str(test): count_clicks(rows)[0] for (test,), rows in events.group_by("user_id", maintain_order=True)}
    rows = events.filter(user_id=max(seen, key=lambda one: seen[one]))
    titles = dict(dataset.items.select("item_id", "text").iter_rows())
    ids = {f"new-{number}": one for number, one in enumerate(rows["item_id"].unique(maintain_order=True))}
    request = {
        "user_id": "somebody",
        "at": int(rows["at"][0]),
        "candidates": {"id": list(ids)},
        "items": {new: {"text": titles[one]} for new, one in ids.items()},
        "top_k": len(ids),
    }
    candidates = score_texts(url, request, list(ids))["candidates"]
    shown = []
    for new, pctr in zip(candidates["id"], candidates["pctr"], strict=True):
        impressions, clicks = count_clicks(rows.filter(item_id=ids[new]))
        shown.append({"headline": titles[ids[new]], "pctr": pctr, "observed": clicks / impressions})
    return shown


def _print(console: Console, out: Path, summary: dict[str, Any]) -> None:
    table = Table(title="One test of the test part, scored over HTTP by texts alone", title_justify="left")
    for name in ("headline", "pCTR", "observed"):
        table.add_column(name)
    best = max(one["observed"] for one in summary["shown"])
    for one in summary["shown"]:
        observed = f"{one['observed']:.2%}{' (won)' if one['observed'] == best else ''}"
        table.add_row(Text(one["headline"]), f"{one['pctr']:.2%}", observed)
    console.print(table)
    if summary["invented"]:
        console.print(f"[bold]{_INVENTED}[/]")
    console.print(
        f"""{summary["verdict"]}
{out / "evaluation/report.html"} shows it all; {out / "creatives.json"} has the figures. \
It took {summary["seconds"]:.0f} s.

Write two headlines, and see which is expected to win:
  MSD_ENCODER=on msd serve {out / "bundle"} --playground     then open http://127.0.0.1:8080/playground
"""
    )
