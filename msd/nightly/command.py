"""`msd nightly`: from the logs to a better bundle, or the reasons to keep the old one."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from msd.contract.files import held_folder
from msd.nightly.config import NightlyConfig, NightlyError
from msd.nightly.night import Night
from msd.nightly.record import EXIT_CODES, PAGE_FILE, RefreshRecord
from msd.nightly.refresh import Refresh

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
app = typer.Typer(add_completion=False)


@app.command("nightly")
def main(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The night's TOML file.")],
    night: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the night and its bundle. Default: today's date (UTC)."),
    ] = None,
    hourly: Annotated[
        bool, typer.Option("--hourly", help="Refresh the served bundle by the impressions since its night.")
    ] = False,
) -> None:
    """Join the logs, train on them, judge the new bundle against the served one, and publish it if it is better.

    Exit status 0: promoted; 3: the old bundle stays; 1: failed, and the old bundle stays. If interrupted or failed, run
    it again with the same name to resume; a finished night only says how it ended.

    --hourly trains nothing: it learns what crosses must add to the served model, and takes a minute. Run it each hour.
    """
    if hourly and night:
        raise NightlyError("--hourly is of no night: leave --night out")
    name = night or f"{datetime.now(UTC):%Y-%m-%d}"
    if not _NAME.fullmatch(name) or name in ("current", "previous"):
        raise NightlyError(f"--night {name}: use letters, digits, dots, dashes and underscores")
    settings, console = NightlyConfig.read(config), Console(soft_wrap=True, highlight=False)
    taken = NightlyError(f"{settings.work}: another night or refresh runs there; wait for its end")
    with held_folder(settings.work, taken):
        one = Refresh(settings, console) if hourly else Night(settings, name, console)
        record = one.run()
    for line in (*record.notes, *record.why):
        console.print(line, markup=False)
    what, page = ("refresh", RefreshRecord.file) if hourly else (f"night {name}", PAGE_FILE)
    console.print(f"{what}: {record.status}; {one.folder / page}", markup=False)
    if code := EXIT_CODES[record.status]:
        raise typer.Exit(code)
