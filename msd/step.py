"""Folders of steps: the mark of a finished one, so that a rerun with the same inputs is skipped, and its record;
and files of options."""

import hashlib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from msd.contract.errors import MsdError, first_fault
from msd.contract.files import read_small, write_text_atomic

STEP_FILE = "step.json"
_MAX_TOML_BYTES = 2**20
Record = TypeVar("Record", bound=BaseModel)


def fingerprint_of(*parts: object) -> str:
    """Return a hash of a step's inputs: JSON values, in order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def is_done(folder: Path, fingerprint: str) -> bool:
    """Return whether the folder has the result of a step with this fingerprint."""
    try:
        step = json.loads((folder / STEP_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(step, dict) and step.get("fingerprint") == fingerprint


def mark_done(folder: Path, fingerprint: str, seconds: float) -> None:
    """Mark the folder as complete; the last write of a step."""
    step = {"fingerprint": fingerprint, "seconds": round(seconds, 3)}
    write_text_atomic(folder / STEP_FILE, json.dumps(step) + "\n")


def check_out(out: Path, own: Sequence[str], what: str, error: type[MsdError]) -> None:
    """Raise `error` if a folder to write is a file, or holds other things than a `what`, which has one of its `own`
    files."""
    if out.is_file():
        raise error(f"{out} is a file; name a folder for the {what}")
    if out.is_dir() and any(out.iterdir()) and not any((out / name).exists() for name in own):
        found = f"holds other things than a {what}" if own else "is there already"
        raise error(f"{out} {found}; name an empty or a new folder")


def read_record(path: Path, kind: type[Record], absent: str, remedy: str, error: type[MsdError]) -> Record:
    """Return the record in a JSON file, which must have the `format` of its kind.

    Raises `error`: `absent` for the folder if there is no such file, otherwise the fault and the `remedy`.
    """
    due = kind.model_fields["format"].default
    try:
        document = json.loads(path.read_bytes())
        # Checked first, because another format may have other fields.
        found = document.get("format") if isinstance(document, dict) else None
        if found != due:
            raise error(f"{path}: format {found!r}, this release reads {due}; {remedy}")
        return kind.model_validate_json(json.dumps(document))
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"{path.parent}: {absent}") from None
    except OSError as wrong:
        raise error(f"{path}: cannot be read ({wrong.strerror}); {remedy}") from None
    except ValidationError as wrong:
        raise error(f"{path}: {first_fault(wrong)}; {remedy}") from None
    except (ValueError, RecursionError) as wrong:
        raise error(f"{path}: not JSON ({wrong}); {remedy}") from None


def read_toml(path: Path, kind: type[Record], error: type[MsdError]) -> Record:
    """Return the content of a TOML file. Raises `error`."""
    try:
        return kind.model_validate(tomllib.loads(read_small(path, _MAX_TOML_BYTES, error).decode()))
    except ValidationError as wrong:
        raise error(f"{path}: {first_fault(wrong)}") from None
    except (ValueError, RecursionError) as wrong:
        raise error(f"{path}: cannot be read as TOML: {wrong}") from None
