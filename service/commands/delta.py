"""`msd delta`: what of a bundle's rows has changed since an earlier export, as a folder for `msd publish --delta`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from msd.contract.delta import write_delta
from service.trust import Trust

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command("delta")
def delta_command(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The bundle as it was published.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The same bundle, exported again with fresh data.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder for the delta; it must not exist.")],
) -> None:
    """Writes the rows that are new or changed, and the ids that are gone."""
    trust = Trust.from_environ(os.environ)
    made = write_delta(trust.open(old), trust.open(new), out)
    gone = sum(map(len, made.removed.values()))
    typer.echo(
        f"{out}: {made.rows['user'].count} users and {made.rows['item'].count} items are new or changed, {gone} ids are"
        f" gone, of bundle {made.manifest.bundle_id}; next: msd publish {out} --delta"
    )
