"""`msd items`: sends items to the live catalogue of a running service, or lists them.

Knows the routes, not what an item is.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from msd.contract.errors import MsdError
from operations.service_client import Ca, Cert, CertKey, HttpAnswer, KeyFile, ServiceClient, tls_of
from service.limits import MAX_ITEMS

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_PATH = "/v1/items"
# Of a body, which the service limits to MSD_MAX_BODY_BYTES.
_MAX_BYTES = 2**19
_PAUSES_S = (0.5, 1.0, 2.0, 4.0)
_BEGIN, _END = b'{"items":[', b"]}"


class ItemsError(MsdError):
    """Items cannot be read, or the service does not take them."""


class _Batch(NamedTuple):
    source: str
    lines: dict[int, bytes]
    """By their numbers."""


@app.command("items")
def items_command(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Files with an item as JSON on each line, - for the input; or list."),
    ],
    url: Annotated[str, typer.Option(help="The service.")] = "http://127.0.0.1:8080",
    key_file: KeyFile = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
) -> None:
    """Describe items to a running service, which scores them from then on without being told more.

    What is sent again is the same again: after an error, repeat the command.
    """
    client = ServiceClient(url, key_file, tls_of(ca, cert, cert_key))
    if sources == ["list"]:
        for item in _listed(client):
            typer.echo(item)
        return
    fates = Counter[str]()
    for source in sources:
        for batch in _batches(source):
            fates.update(_sent(client, batch))
    typer.echo(", ".join(f"{count} {fate}" for fate, count in fates.most_common()) or "no items")


def _batches(source: str) -> Iterator[_Batch]:
    """Yield the lines of a file in batches of one body each. Raises ItemsError."""
    try:
        with nullcontext(sys.stdin.buffer) if source == "-" else Path(source).open("rb") as file:
            yield from _cut(source, file)
    except OSError as error:
        raise ItemsError(f"{source}: {error.strerror or error}") from None


def _cut(source: str, file: Iterable[bytes]) -> Iterator[_Batch]:
    batch, size = _Batch(source, {}), 0
    for number, line in enumerate(map(bytes.strip, file), start=1):
        if batch.lines and (len(batch.lines) == MAX_ITEMS or size + len(line) > _MAX_BYTES):
            yield batch
            batch, size = _Batch(source, {}), 0
        if line:
            batch.lines[number] = line
            size += len(line) + 1
    if batch.lines:
        yield batch


def _sent(client: ServiceClient, batch: _Batch) -> list[str]:
    """Send a batch, again while the service is unavailable; return the items' fates. Raises ItemsError."""
    for pause_s in (*_PAUSES_S, None):
        answer = client.ask(_PATH, _BEGIN + b",".join(batch.lines.values()) + _END)
        if answer.status == 202:
            return [item["fate"] for item in answer.json()["items"]]
        if answer.status not in (429, 503) or pause_s is None:
            break
        time.sleep(pause_s)
    raise ItemsError(_reason(answer, batch))


def _reason(answer: HttpAnswer, batch: _Batch) -> str:
    error = answer.json().get("error") or {"message": f"status {answer.status}"}
    _, _, behind = (error.get("field") or "").partition("items.")
    place, _, field = behind.partition(".")
    numbers = list(batch.lines)
    first, last = numbers[0], numbers[-1]
    where = f"line {numbers[int(place)]}" if place.isdecimal() else f"lines {first} to {last}"
    what = f"{field}: {error['message']}" if field else error["message"]
    return f"{batch.source}, {where}: {what}; none of lines {first} to {last} was taken"


def _listed(client: ServiceClient) -> Iterator[str]:
    after: int | None = 0
    while after is not None:
        answer = client.ask(f"{_PATH}?after={after}")
        page = answer.json()
        if answer.status != 200:
            raise ItemsError((page.get("error") or {}).get("message", f"status {answer.status}"))
        yield from (json.dumps(item, ensure_ascii=False) for item in page["items"])
        after = page.get("next")
