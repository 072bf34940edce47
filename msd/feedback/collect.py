"""Logs of services wherever they are: folders as they are, and copies of what is in object storage (obstore: S3, Google
Cloud Storage, Azure or file://, with credentials from the environment)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from msd.contract.files import write_bytes_atomic
from msd.contract.log import EVENTS, REQUESTS
from msd.feedback.files import FeedbackError, log_folders

Logs = Annotated[
    list[str],
    typer.Argument(
        metavar="LOG…",
        help="MSD_LOG_DIR of each service, a file, a folder of such folders, or a URL (s3://, gs://, az://, file://).",
    ),
]
Events = Annotated[
    list[Path] | None,
    typer.Option(metavar="EVENTS", help="Folders or files (Parquet, JSONL) of events; repeatable. Default: LOG…."),
]
WindowHours = Annotated[float, typer.Option(min=0, help="Hours after an impression in which its click counts.")]
SettleHours = Annotated[
    float, typer.Option(min=0, help="Hours until an impression without a click counts as not clicked.")
]


@contextmanager
def collected(logs: Sequence[str], copies: Path | None = None) -> Iterator[list[Path]]:
    """Yield the folders and files of logs. Files at URLs are copied once into `copies`, by default for the time of the
    block; those that the store no longer has are removed there. Raises FeedbackError."""
    with TemporaryDirectory() as temporary:
        found = []
        for place, log in enumerate(logs):
            folder = (copies or Path(temporary)) / str(place)
            if "://" in log:
                _copy(log, folder)
            found.append(folder if "://" in log else Path(log))
        yield log_folders(found)


def _copy(url: str, folder: Path) -> None:
    """Copy the log files below `url`; one folder for each that they are in."""
    import obstore
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    due = set()
    try:
        store = from_url(url)
        for one in (one for batch in obstore.list(store) for one in batch):
            path = PurePosixPath(one["path"])
            if path.suffix != ".parquet" or not path.name.startswith((f"{REQUESTS}-", f"{EVENTS}-")):
                continue
            copy = folder / ("_".join(path.parts[:-1]) or "log") / path.name
            due.add(copy)
            # The log's files are never changed.
            if not copy.is_file() or copy.stat().st_size != one["size"]:
                copy.parent.mkdir(parents=True, exist_ok=True)
                write_bytes_atomic(copy, bytes(obstore.get(store, one["path"]).bytes()))
    except (BaseError, ValueError) as error:
        raise FeedbackError(f"{url}: {str(error).partition(chr(10))[0]}") from None
    if not due:
        raise FeedbackError(f"{url}: holds no file of a log")
    for copy in set(folder.rglob("*.parquet")) - due:
        copy.unlink()
