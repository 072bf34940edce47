"""`msd lab data`: the data of research benchmarks, from your own copies, as dataset folders."""

from pathlib import Path
from typing import Annotated

import typer

from lab.data.collm_ml_1m import write_collm_ml_1m
from lab.data.nemig import Language, write_nemig

app = typer.Typer(add_completion=False, no_args_is_help=True)
Out = Annotated[Path, typer.Argument(metavar="OUT", help="The dataset's folder.")]


@app.command("ml-1m")
def ml_1m(
    archive: Annotated[
        Path,
        typer.Argument(metavar="ARCHIVE", help="Your download of ml-1m.zip (grouplens.org/datasets/movielens/1m)."),
    ],
    folder: Out,
) -> None:
    """Write MovieLens-1M in the time split of CoLLM as a dataset folder, for `msd teach` and the benchmark."""
    if _say(folder, write_collm_ml_1m(folder, archive)):
        typer.echo(f"next: msd teach {folder} {folder / 'knowledge'} --teacher … (docs/teaching.md)")


@app.command("nemig")
def nemig(
    copy: Annotated[Path, typer.Argument(metavar="COPY", help="Your clone of github.com/andreeaiana/nemig.")],
    folder: Out,
    language: Annotated[Language, typer.Option(help="Which study: the German or the English one.")] = "en",
) -> None:
    """Write the lists of news of NeMig, with positions, as a dataset folder. Its user data is CC BY-NC-SA 4.0."""
    _say(folder, write_nemig(folder, copy, language))


def _say(folder: Path, rows: dict[str, int] | None) -> bool:
    """Tell the rows of each part; return whether they were written now."""
    if rows is None:
        typer.echo(f"{folder}: was there already, unchanged")
        return False
    typer.echo(f"{folder}: written, {', '.join(f'{part} {count:,}' for part, count in rows.items())} rows")
    return True
