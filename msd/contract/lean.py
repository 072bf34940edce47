"""What a bundle's manifest says of its lean graph: its tolerance, its cost in quality, and the time that it saves."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Interval = tuple[float, float]


class LeanTimes(BaseModel):
    """Median microseconds of a run of each graph on one thread, in turns."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    full: Annotated[float, Field(gt=0)]
    lean: Annotated[float, Field(gt=0)]


class LeanCost(BaseModel):
    """One head of the lean graph against the full one's, on the same valid rows: of pcvr, on those that were clicked. A
    cost is above 0 where the lean graph is worse; its interval is the paired 95 % interval over users, None if the rows
    do not allow one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    valid_rows: Annotated[int, Field(ge=1)]
    auc: float
    auc_cost: float
    auc_cost_ci95: Interval | None
    logloss: float
    logloss_cost: float
    logloss_cost_ci95: Interval | None
    ece: float
    ece_cost: float


class LeanRecord(BaseModel):
    """What the lean graph costs by head, pctr at least, and the time that it saves."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tolerance: Annotated[float, Field(gt=0, description="Largest |pCTR − the lean model's| on onnxruntime-cpu-fp32.")]
    costs: Annotated[dict[str, LeanCost], Field(min_length=1, description="By head, those that could be judged.")]
    microseconds: Annotated[dict[int, LeanTimes], Field(min_length=1, description="By number of candidates.")]

    @property
    def share(self) -> float:
        """The lean graph's time as a share of the full one's, at the largest measured number of candidates."""
        times = self.microseconds[max(self.microseconds)]
        return times.lean / times.full
