"""Records of a night, nightly.json and its page, and of a refresh, refresh.json; and how either ends."""

import json
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict
from rich.console import Console

from msd.contract.errors import MsdError
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


class _Record(BaseModel):
    """How it ended and why. `until`: of the latest impression (Unix s). `counts`: of the join."""

    model_config = ConfigDict(extra="forbid")
    file: ClassVar[str]

    format: int = 1
    status: Status = "failed"
    why: list[str] = []
    notes: list[str] = []
    until: float = 0.0
    counts: dict[str, int] = {}
    click_rates: dict[str, float] = {}
    steps: dict[str, Cost] = {}
    started_at: float = 0.0
    seconds: float = 0.0

    def write(self, folder: Path) -> None:
        """Write the record."""
        write_text_atomic(folder / self.file, json.dumps(self.model_dump(mode="json"), indent=2) + "\n")

    def keep(self, work: Callable[[], None], folder: Path, console: Console) -> None:
        """Do the work, and write how it ended into the folder. Unexpected errors are printed, too."""
        try:
            work()
            self.status = "promoted"
        except Kept as reasons:
            self.status, self.why = "kept", list(reasons.args)
        except Exception as error:
            self.status, self.why = "failed", [f"{type(error).__name__}: {error}"]
            if not isinstance(error, MsdError):
                console.print(traceback.format_exc(), markup=False)
        self.seconds = round(time.time() - self.started_at, 1)
        # A disk without space for the record must not hide why it ended.
        with suppress(OSError):
            self.write(folder)


class NightRecord(_Record):
    """What came in, what changed, the verdict and why.

    Impressions after `began` and up to `until` were new; those after `cut` judged the bundles (Unix s). `is_accepted`:
    whether the next night continues this one's dataset; if not, later nights leave the new impressions out. `left_out`:
    this night's number of those, by the refused night. `bounds`: fingerprint of the gate and the rollout that decided.
    """

    file: ClassVar[str] = RECORD_FILE

    night: str
    is_accepted: bool = False
    began: float = 0.0
    cut: float = 0.0
    bounds: str = ""
    left_out: dict[str, int] = {}
    verdict: dict[str, Any] | None = None
    rollout: list[Stage] = []

    def write(self, folder: Path) -> None:
        """Write the record and its page."""
        super().write(folder)
        write_text_atomic(folder / PAGE_FILE, render_page("msd.nightly", "nightly.html.j2", record=self))


class RefreshRecord(_Record):
    """What a refresh learned, and why its bundle serves or not.

    `base`: the night whose model it continues. `bundle_id`: of the bundle that it made. `rows`: impressions since that
    night's training, up to `until`; `waited_s`: how long each waited for its click. `behind_s`: seconds from the latest
    impression to the end.
    """

    file: ClassVar[str] = "refresh.json"

    name: str = ""
    base: str = ""
    bundle_id: str = ""
    waited_s: float = 0.0
    behind_s: float = 0.0
    rows: int = 0
    clicks: int = 0
    half_life_s: float | None = None
    checks: list[Check] = []

    def write(self, folder: Path) -> None:
        """Write the record."""
        self.behind_s = round(time.time() - self.until, 1) if self.until else 0.0
        super().write(folder)


Record = TypeVar("Record", NightRecord, RefreshRecord)


def known_record(folder: Path, kind: type[Record]) -> Record | None:
    """Return a record of a kind in a folder; None if it has none yet. Raises NightlyError."""
    path = folder / kind.file
    if not path.is_file():
        return None
    return read_record(path, kind, "no record", "remove the folder", NightlyError)
