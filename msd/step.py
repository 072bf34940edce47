"""What a finished step leaves in its folder, so that a rerun with the same inputs can be skipped."""

import hashlib
import json
from pathlib import Path

from msd.contract.files import write_text_atomic

STEP_FILE = "step.json"


def fingerprint_of(*parts: object) -> str:
    """A hash of all that a step depends on: JSON values, in order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def is_done(folder: Path, fingerprint: str) -> bool:
    """Whether the folder holds the result of a step with this fingerprint."""
    try:
        step = json.loads((folder / STEP_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(step, dict) and step.get("fingerprint") == fingerprint


def mark_done(folder: Path, fingerprint: str, seconds: float) -> None:
    """Says that the folder is complete; the last thing that a step writes."""
    step = {"fingerprint": fingerprint, "seconds": round(seconds, 3)}
    write_text_atomic(folder / STEP_FILE, json.dumps(step) + "\n")
