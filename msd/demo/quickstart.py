"""`msd quickstart LOG`: from your own log to scores over HTTP; every step is a command that can be run by itself."""

import json
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer
from rich.console import Console

from msd.contract.files import write_text_atomic
from msd.contract.request import ANONYMOUS_PREFIX
from msd.dataset.column import EARLIEST
from msd.dataset.config import CONFIG_FILE
from msd.dataset.load import Dataset, load_dataset
from msd.dataset.log.remote import is_remote
from msd.dataset.split import Part, split_events
from msd.dataset.texts import student_texts
from msd.demo.service import DemoError, Line, score, serve
from msd.demo.steps import Steps
from msd.evaluation.verdict import say_verdict

app = typer.Typer(add_completion=False)
RECORD_FILE = "quickstart.json"
_FORMAT = 1
_FEWEST_TEXTS = 10
_CANDIDATES = 5
_MANY = 1_000_000  # events
_FIGURES = "figures"
_RESAMPLES = 300  # fewer than the default: large logs take minutes by them


@app.command("quickstart", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def quickstart(
    context: typer.Context,
    log: Annotated[
        str, typer.Argument(metavar="LOG", help="Your events, as `msd data init` takes them, or a dataset's folder.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder for everything; finished steps are reused.")
    ] = Path("runs/quickstart"),
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to serve on.")] = 8080,
    serving: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve the bundle in the end.")] = True,
) -> None:
    """Make a dataset of a log; train, measure, export and serve a model without a teacher.

    Further options are those of `msd data init`, such as --item COLUMN or --sample N. If interrupted, run it again.
    """
    console = Console(highlight=False, soft_wrap=True)
    if log.startswith("-"):
        raise DemoError(f"No such option: {log}; options of `msd data init` come after LOG")
    if not is_remote(log) and not Path(log).exists():
        raise DemoError(f"{log}: there is no such file or folder")
    steps, options = Steps(console, total=1), context.args
    data = _dataset(steps, log, out, options)
    dataset = load_dataset(data)
    lines = _lines(dataset, data, out)
    steps.total = len(steps.seconds) + len(lines)
    if dataset.events.height > _MANY:
        console.print("A first look is shorter with --sample 100000 and another --out: about so many impressions.")
    for name, line in lines.items():
        steps.call(name, *line)
    results, request = json.loads((out / _FIGURES / "evaluation.json").read_text("utf-8")), _request(dataset)
    verdict = f"Verdict: {say_verdict(results)}"
    found = {"verdict": verdict, "request": request, "seconds": steps.seconds}
    _write_record(out, _inputs(log, options), found)
    url, body = f"http://127.0.0.1:{port}", shlex.quote(json.dumps(request))
    curl = f"curl -s {url}/v1/score -H 'Content-Type: application/json' -d {body}"
    console.print(f"\n{verdict}\n{out / _FIGURES / 'report.html'} shows curves, slices and intervals.\n", markup=False)
    if not serving:
        console.print(f"msd serve {out / 'bundle'} --port {port}\n{curl}", markup=False)
        return
    with serve(out / "bundle", out / "serve.log", port=port) as (_, process):
        console.print(f"{curl}\n\n{json.dumps(score(url, request))}\n", markup=False)
        console.print(
            f"Serving on {url} (/playground, /docs) until Ctrl-C; {out / 'serve.log'} is its log.", markup=False
        )
        with suppress(KeyboardInterrupt):
            process.wait()


def _dataset(steps: Steps, log: str, out: Path, options: list[str]) -> Path:
    """Return the dataset's folder: the log itself if it is a dataset, else the result of `msd data init`, reused if it
    exists."""
    if (Path(log) / CONFIG_FILE).is_file():
        if options:
            raise DemoError(f"{log} is a dataset, which {shlex.join(options)} cannot change; edit {CONFIG_FILE}")
        return Path(log)
    data, inputs = out / "data", _inputs(log, options)
    if (data / CONFIG_FILE).is_file():
        try:
            known = json.loads((out / RECORD_FILE).read_text("utf-8"))
        except (OSError, ValueError):
            known = None
        if not isinstance(known, dict) or known.get("inputs") != inputs:
            raise DemoError(
                f"{out} holds what was made of another log, or of this one before it changed, or with other options; "
                "name another folder with --out"
            )
        steps.console.print(f"{data}: made before")
        return data
    # First, so that a dataset with problems, or a run that is interrupted, is known to be of this log.
    _write_record(out, inputs, {})
    steps.call("data", "data", "init", log, data, *options)
    return data


def _inputs(log: str, options: list[str]) -> dict[str, Any]:
    """Return a dataset's inputs, with the size of a local log: one that has grown is another input."""
    if is_remote(log):
        return {"log": log, "bytes": None, "options": options}
    path = Path(log)
    files = [file for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return {"log": str(path.resolve()), "bytes": sum(file.stat().st_size for file in files), "options": options}


def _write_record(out: Path, inputs: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    write_text_atomic(out / RECORD_FILE, json.dumps({"format": _FORMAT, "inputs": inputs, **found}, indent=2) + "\n")


def _lines(dataset: Dataset, data: Path, out: Path) -> dict[str, Line]:
    """Return the commands after the dataset, by name; with 10 texts or more, they include an untaught student's."""
    student, model, figures, bundle = (out / folder for folder in ("student", "model", _FIGURES, "bundle"))
    has_texts = sum(map(bool, student_texts(dataset)[0].values())) >= _FEWEST_TEXTS
    read: Line = (student,) if has_texts else ()
    way: Line = () if has_texts else ("--no-semantics",)
    texts: Line = ("--texts",) if has_texts else ()
    distil: dict[str, Line] = {"distill": ("distill", data, student)} if has_texts else {}
    return distil | {
        "train": ("train", data, *read, model, *way),
        "evaluate": ("evaluate", data, *read, figures, "--model", model, "--resamples", str(_RESAMPLES), *texts),
        "export": ("export", data, *read, model, bundle, "--evaluation", figures / "evaluation.json"),
    }


def _request(dataset: Dataset) -> dict[str, Any]:
    """Return a request of the first test event's user: ID, time and context, and the first ads of the test part."""
    events = dataset.events.with_columns(part=pl.Series(split_events(dataset.events, dataset.config)))
    test = events.filter(pl.col("part") == Part.TEST)
    first = test.row(0, named=True)
    context = {one.name: first[one.name] for one in dataset.config.side("context") if one.serving_value is None}
    ids = test["item_id"].unique(maintain_order=True).head(_CANDIDATES).to_list()
    is_known = not first["user_id"].startswith(ANONYMOUS_PREFIX)
    request = {"user_id": first["user_id"] if is_known else None, "context": context, "candidates": {"id": ids}}
    return request | ({"at": first["at"]} if first["at"] >= EARLIEST else {})
