"""Progress of distilling, as stored in its checkpoint."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from msd.student.measure import Figures

Stage = Literal["search", "rehearsal", "catalogue", "done"]


class Epoch(BaseModel):
    """Measurements of one pass; `held_out_loss` is None outside the search."""

    model_config = ConfigDict(frozen=True)

    stage: Stage
    epoch: int
    loss: float
    held_out_loss: float | None


class Progress(BaseModel):
    """Progress of a run: `epoch` passes of `stage` are done. `best_epoch` is of the search; 0 is before training."""

    model_config = ConfigDict(frozen=True)

    stage: Stage = "search"
    epoch: int = 0
    steps: int = 0
    best_epoch: int = 0
    best_loss: float
    history: tuple[Epoch, ...] = ()
    figures: dict[str, Figures] = {}
