"""Records of a night, nightly.json and its page, and of a refresh, refresh.json."""

import json
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from msd.contract.files import write_text_atomic
from msd.feedback.gate import Check
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
    file: ClassVar[str] = RECORD_FILE

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


class RefreshRecord(BaseModel):
    """What a refresh learned, and why its bundle serves or not.

    `base`: the night whose model it continues. `bundle_id`: of the bundle that it made. `rows`: impressions since that
    night's training, up to `until` (Unix s); `waited_s`: how long each waited for its click. `behind_s`: seconds from
    the latest impression to the end.
    """

    model_config = ConfigDict(extra="forbid")
    file: ClassVar[str] = "refresh.json"

    format: int = 1
    name: str = ""
    base: str = ""
    bundle_id: str = ""
    status: Status = "failed"
    why: list[str] = []
    notes: list[str] = []
    until: float = 0.0
    waited_s: float = 0.0
    behind_s: float = 0.0
    rows: int = 0
    clicks: int = 0
    counts: dict[str, int] = {}
    click_rates: dict[str, float] = {}
    half_life_s: float | None = None
    checks: list[Check] = []
    steps: dict[str, Cost] = {}
    started_at: float = 0.0
    seconds: float = 0.0

    def write(self, folder: Path) -> None:
        """Write the record."""
        write_text_atomic(folder / self.file, json.dumps(self.model_dump(mode="json"), indent=2) + "\n")


Record = TypeVar("Record", NightRecord, RefreshRecord)


def known_record(folder: Path, kind: type[Record]) -> Record | None:
    """Return a record of a kind in a folder; None if it has none yet. Raises NightlyError."""
    path = folder / kind.file
    if not path.is_file():
        return None
    return read_record(path, kind, "no record", "remove the folder", NightlyError)
