"""In which precision a bundle's ranker runs, on which runtime, and the figures by which that was decided."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["fp32", "int8", "bf16"]
RuntimeName = Literal["onnxruntime", "openvino"]
RUNTIMES: Mapping[Precision, RuntimeName] = {"fp32": "onnxruntime", "int8": "onnxruntime", "bf16": "openvino"}
"""Who runs a precision. In bf16 the graph is that of fp32: whoever cannot run it so may run it in fp32."""


class Figures(BaseModel):
    """Of one precision, on the same rows as every other; `ece` in fp32's bins of rows, `microseconds` the median of a
    run on one thread."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    auc: float
    logloss: float
    ece: float
    predicted_over_observed: float
    microseconds: float


class Tried(BaseModel):
    """What came of trying a precision: figures unless it could not be run, the reason where it was refused.

    `auc_worst` and `logloss_worst`: how much worse than fp32 it may be, by the end of the paired 95 % interval.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    figures: Figures | None = None
    auc_worst: float | None = None
    logloss_worst: float | None = None
    refused: str | None = None


class PrecisionRecord(BaseModel):
    """What was asked for, what was chosen, and why. `tried` is empty where nothing but fp32 was asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    asked: Literal["fp32", "int8", "bf16", "auto"] = "fp32"
    chosen: Precision = "fp32"
    candidates: Annotated[int, Field(ge=0, description="As many were scored in each timed run.")] = 0
    valid_rows: Annotated[int, Field(ge=0)] = 0
    instructions: Annotated[tuple[str, ...], Field(description="Of the CPU that it was measured on.")] = ()
    tried: dict[Precision, Tried] = {}

    @property
    def runtime(self) -> RuntimeName:
        """Who runs the chosen precision."""
        return RUNTIMES[self.chosen]
