"""`msd lab instant`: the bundle that `msd demo --instant` serves, made by the product's own commands in a minute.

The bundle is kept in the checkout, 4.4 MB that compress to 1.5: a wheel's build has no torch to train one.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lab.instant.student import little_student
from lab.instant.world import write_market
from msd.dataset.load import load_dataset
from msd.dataset.texts import student_texts
from msd.demo.instant import BUNDLE
from msd.demo.steps import Steps
from msd.step import STEP_FILE
from msd.student.distill import DistillConfig
from msd.student.step import distill

app = typer.Typer(add_completion=False)
_REQUESTS = "200"


@app.command("instant")
def instant(out: Annotated[Path, typer.Option(help="The bundle's folder.")] = BUNDLE) -> None:
    """Invents a market, teaches a student of a megabyte, trains, measures and exports."""
    steps = Steps(Console(highlight=False), 3)
    with tempfile.TemporaryDirectory() as work:
        data, knowledge, student, model, figures = (
            Path(work) / name for name in ("data", "words", "st", "model", "eval")
        )
        write_market(data, knowledge)
        texts = [text for named in student_texts(load_dataset(data)) for text in named.values()]
        distill(data, knowledge, student, DistillConfig(), lambda *_: None, student=little_student(texts))
        steps.call("train", "train", data, student, model)
        steps.call("evaluate", "evaluate", data, student, figures, "--model", model)
        made = (data, knowledge, student, model, out, "--evaluation", figures / "evaluation.json")
        steps.call("export", "export", *made, "--requests", _REQUESTS)
    (out / STEP_FILE).unlink()
