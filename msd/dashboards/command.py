"""`msd dashboards`: write the Grafana dashboards, which are defined in code, into a folder."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from msd.contract.files import write_text_atomic
from msd.dashboards.boards import BOARDS
from msd.dashboards.grafana import to_grafana

app = typer.Typer(add_completion=False)


@app.command("dashboards")
def main(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Output folder, readable by Grafana's provisioning.")
    ],
) -> None:
    """Write one JSON file a dashboard."""
    for board in BOARDS:
        path = folder / f"{board.name}.json"
        write_text_atomic(path, to_grafana(board))
        Console().print(f"written: {path}", highlight=False, soft_wrap=True)
