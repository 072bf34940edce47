"""`msd lab data`: convert the data of a research benchmark, from your own download."""

from pathlib import Path
from typing import Annotated

import typer

from lab.data.collm_ml_1m import write_collm_ml_1m

app = typer.Typer(add_completion=False)


@app.command("data")
def collm_ml_1m(
    archive: Annotated[
        Path,
        typer.Argument(metavar="ARCHIVE", help="Your download of ml-1m.zip (grouplens.org/datasets/movielens/1m)."),
    ],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="The dataset's folder.")],
) -> None:
    """Write MovieLens-1M in the time split of CoLLM as a dataset folder, for `msd teach` and the benchmark."""
    rows = write_collm_ml_1m(folder, archive)
    if rows is None:
        typer.echo(f"{folder}: was there already, unchanged")
        return
    typer.echo(f"{folder}: written, {', '.join(f'{part} {count:,}' for part, count in rows.items())} rows")
    typer.echo(f"next: msd teach {folder} {folder / 'knowledge'} --teacher … (docs/teaching.md)")
