"""Corrections of calibration in force: those of a file that `msd recalibrate` writes, reloaded when it changes.

One file may serve any number of processes, which then score alike. Does not know how corrections are learned.
"""

from pathlib import Path

from msd.contract.correction import Correction, Learned, read_corrections
from service.models.model import Model
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.watched_files import WatchedFiles


class WatchedCorrections:
    """By bundle_id: the graph of another bundle has a calibration of its own, and begins without a correction. Read by
    every thread."""

    def __init__(self, path: Path, metrics: Metrics) -> None:
        """Raises CorrectionError if the file is there and is none."""

        def read() -> dict[str, Learned]:
            found = read_corrections(path)
            metrics.corrected(found)
            return found

        self._file = WatchedFiles("corrections", [path], read, metrics.corrections_stale)

    def of(self, model: Model) -> Correction | None:
        """What a model's scores are corrected by; None if they are served as they are."""
        return self._file.value.get(model.bundle.bundle_id)

    async def watch(self) -> None:
        """Reload the file when it changes, for ever. One that becomes unusable changes nothing."""
        await self._file.watch()


def open_corrections(settings: Settings, metrics: Metrics) -> WatchedCorrections | None:
    """None without `MSD_CORRECTIONS`. Raises CorrectionError."""
    return None if settings.corrections is None else WatchedCorrections(settings.corrections, metrics)
