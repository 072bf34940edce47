"""Marks of finished steps, so that a rerun with the same inputs is skipped."""

import hashlib
import json
from pathlib import Path

from msd.contract.files import write_text_atomic

STEP_FILE = "step.json"


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
