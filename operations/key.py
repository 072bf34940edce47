"""`msd key`: API keys for scores, events and admin routes."""

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from service.http.keys import KEY_SCOPES, KeyScope, KeysError, new_key

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def key() -> None:
    """Make API keys. The service's key file (MSD_KEYS_FILE) holds only their hashes."""


@app.command()
def new(
    name: Annotated[str, typer.Option(help="Owner, for the log; letters, digits, dot, dash, underscore.")],
    scope: Annotated[list[str], typer.Option(help=f"Scope of the key, repeatable: {', '.join(KEY_SCOPES)}.")],
    days: Annotated[int | None, typer.Option(min=1, max=36_500, help="Days until it expires. Default: never.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print key and entry as one JSON object.")] = False,
) -> None:
    """Print a new key, which is kept nowhere, and the entry to add to the file."""
    scopes = tuple(dict.fromkeys(map(_scope, scope)))
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days) if days else None
    key, entry = new_key(name, scopes, until)
    document = entry.model_dump(mode="json", exclude_none=True)
    if as_json:
        typer.echo(json.dumps({"key": key, "entry": document}))
        return
    typer.echo("The key, shown only once; give it to its user:\n")
    typer.echo(f"  {key}\n")
    typer.echo('The entry to add to "keys" of the file that MSD_KEYS_FILE names:\n')
    typer.echo(f"  {json.dumps(document)}\n")
    typer.echo('A file of one key is {"keys": [ENTRY]}. Services see a new file within two seconds.')


def _scope(text: str) -> KeyScope:
    for known in KEY_SCOPES:
        if text == known:
            return known
    raise KeysError(f"--scope: unknown scope {text[:40]!r}; expected one of {', '.join(KEY_SCOPES)}")
