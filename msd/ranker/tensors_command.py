"""`msd tensors`: write a dataset as the ranker's tensors, to train your own model on."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from msd.dataset.load import load_dataset
from msd.ranker.tensor_folder import FORMAT, RECORD_FILE, TensorFolderError, is_whole, write_tensors
from msd.report import bar
from msd.step import STEP_FILE, check_out, fingerprint_of, is_done, mark_done
from msd.student.vectors import load_vectors, no_vectors

app = typer.Typer(add_completion=False)


@app.command("tensors")
def tensors(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="The dataset's folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder: new, or of an earlier run.")],
    student: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Output of `msd distill`, to include its vectors.")
    ] = None,
) -> None:
    """Write all rows as safetensors by part, with the schema that says what their columns are.

    A model trained on them elsewhere, as an ONNX graph, becomes a bundle by `msd export --onnx`.
    """
    start, console = time.perf_counter(), Console()
    data = load_dataset(dataset)
    vectors = load_vectors(student) if student else no_vectors()
    run = fingerprint_of(FORMAT, data.fingerprint, vectors.student if student else None)
    if is_done(out, run) and is_whole(out):
        console.print(f"{out}: done before, nothing to do", highlight=False)
        return
    check_out(out, (RECORD_FILE,), "dataset's tensors", TensorFolderError)
    (out / STEP_FILE).unlink(missing_ok=True)
    with bar(console) as heard:
        record = write_tensors(data, vectors, student is not None, out, heard)
    mark_done(out, run, time.perf_counter() - start)
    told = ", ".join(f"{count} {part}" for part, count in record.rows.items())
    console.print(f"{out}: {told} rows ({time.perf_counter() - start:.1f} s)", highlight=False)
