"""`msd train`: dataset and student in, a trained and calibrated ranker out."""

import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from msd.dataset.load import load_dataset
from msd.dataset.split import Part
from msd.ranker.features import build_features
from msd.ranker.folder import FORMAT, ModelError, RankerRecord, load_ranker, save_ranker
from msd.ranker.model import RankerConfig
from msd.ranker.schema_fit import fit_schema
from msd.ranker.train import TrainConfig, train_ranker
from msd.step import STEP_FILE, fingerprint_of, is_done, mark_done
from msd.student.vectors import load_vectors

app = typer.Typer(add_completion=False)
_WORK = ".work"


@app.command("train")
def train(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="The dataset's folder.")],
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="The folder that `msd distill` wrote.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder for the model.")],
    seed: Annotated[int, typer.Option(min=0, help="Draws the first weights, the order of rows and dropout.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training rows at most.")] = 20,
    semantics: Annotated[
        bool, typer.Option(help="Use the student's vectors; without, the model never sees one.")
    ] = True,
) -> None:
    """Trains the CTR model. Started again, it goes on after the last whole epoch."""
    start, console = time.perf_counter(), Console()
    data, vectors = load_dataset(dataset), load_vectors(student)
    model_config, config = RankerConfig(), TrainConfig(seed=seed, epochs=epochs)
    # The student counts without semantics too: the record names it, and later steps insist on one student for all.
    run = fingerprint_of(
        FORMAT, data.fingerprint, vectors.student, semantics, model_config.model_dump(), asdict(config)
    )
    if _is_whole(out, run):
        console.print(f"{out}: done before, nothing to do", highlight=False)
        return
    (out / STEP_FILE).unlink(missing_ok=True)
    features = build_features(data, fit_schema(data, semantics=semantics), vectors)
    rows = len(features.of_part(Part.WINDOW, Part.TRAIN))
    columns = (TextColumn("epoch {task.fields[epoch]}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("loss {task.fields[loss]:.4f}"), console=console) as bars:
        bar = bars.add_task("train", total=-(-rows // config.batch(rows)), epoch=1, loss=0.0)
        model, curve = train_ranker(
            features,
            model_config,
            config,
            out / _WORK / "checkpoint.safetensors",
            run,
            lambda epoch, step, loss: bars.update(bar, completed=step, epoch=epoch, loss=loss),
        )
    record = RankerRecord(
        feature_schema=features.schema,
        config=model_config,
        training={**asdict(config), "seconds": round(time.perf_counter() - start, 1)},
        curve=tuple(curve),
        vector_dim=features.item.vectors.shape[1],
        dataset=data.fingerprint,
        student=vectors.student,
    )
    save_ranker(out, model, record)
    shutil.rmtree(out / _WORK)
    mark_done(out, run, time.perf_counter() - start)
    best = max(curve, key=lambda point: point.valid_auc)
    console.print(f"{out}: valid AUC {best.valid_auc:.4f} after epoch {best.epoch} of {len(curve)}", highlight=False)


def _is_whole(out: Path, run: str) -> bool:
    """Whether the folder holds the model of this very run, undamaged."""
    if out.is_file():
        raise ModelError(f"{out} is a file; name a folder for the model")
    if not is_done(out, run):
        return False
    try:
        load_ranker(out)
    except ModelError:
        return False
    return True
