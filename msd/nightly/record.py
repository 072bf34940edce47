"""The record of a night, nightly.json, and its page."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from msd.contract.files import write_text_atomic
from msd.nightly.config import NightlyError
from msd.nightly.cost import Cost
from msd.nightly.stage import Stage
from msd.page import render_page
from msd.step import read_record

RECORD_FILE, PAGE_FILE = "nightly.json", "nightly.html"
Status = Literal["promoted", "kept", "failed"]
EXIT_CODES: dict[Status, int] = {"promoted": 0, "kept": 3, "failed": 1}


class Kept(Exception):
    """The old bundle stays, for the reasons in `args`."""


class NightRecord(BaseModel):
    """What came in, what changed, the verdict and why.

    Impressions after `began` and up to `until` were new; those after `cut` judged the bundles (Unix s). `is_accepted`:
    whether the next night continues this one's dataset; if not, later nights leave the new impressions out. `left_out`:
    this night's number of those, by the refused night. `bounds`: fingerprint of the gate and the rollout that decided.
    """

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    night: str
    status: Status = "failed"
    why: list[str] = []
    notes: list[str] = []
    is_accepted: bool = False
    began: float = 0.0
    cut: float = 0.0
    until: float = 0.0
    bounds: str = ""
    counts: dict[str, int] = {}
    left_out: dict[str, int] = {}
    click_rates: dict[str, float] = {}
    verdict: dict[str, Any] | None = None
    rollout: list[Stage] = []
    steps: dict[str, Cost] = {}
    started_at: float = 0.0
    seconds: float = 0.0

    def write(self, folder: Path) -> None:
        """Write the record and its page."""
        write_text_atomic(folder / RECORD_FILE, json.dumps(self.model_dump(mode="json"), indent=2) + "\n")
        write_text_atomic(folder / PAGE_FILE, render_page("msd.nightly", "nightly.html.j2", record=self))


def known_record(folder: Path) -> NightRecord | None:
    """Return a night's record; None if it has none yet. Raises NightlyError."""
    path = folder / RECORD_FILE
    if not path.is_file():
        return None
    return read_record(path, NightRecord, "no record", "remove the folder", NightlyError)
