"""Folders of steps: the mark of a finished one, so that a rerun with the same inputs is skipped, and its record."""

import hashlib
import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from msd.contract.errors import MsdError, first_fault
from msd.contract.files import write_text_atomic

STEP_FILE = "step.json"
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


def read_record(
    path: Path, kind: type[Record], format_: int, absent: str, remedy: str, error: type[MsdError]
) -> Record:
    """Return the record in a JSON file, which must have this `format`.

    Raises `error`: `absent` for the folder if there is no such file, otherwise the fault and the `remedy`.
    """
    try:
        document = json.loads(path.read_bytes())
        # Checked first, because another format may have other fields.
        found = document.get("format") if isinstance(document, dict) else None
        if found != format_:
            raise error(f"{path}: format {found!r}, this release reads {format_}; {remedy}")
        return kind.model_validate_json(json.dumps(document))
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"{path.parent}: {absent}") from None
    except ValidationError as wrong:
        raise error(f"{path}: {first_fault(wrong)}; {remedy}") from None
    except (ValueError, RecursionError) as wrong:
        raise error(f"{path}: not JSON ({wrong}); {remedy}") from None
