"""A bundle's precision and runtime, and the figures behind the choice."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["fp32", "int8", "bf16"]
RuntimeName = Literal["onnxruntime", "openvino"]
RUNTIMES: Mapping[Precision, RuntimeName] = {"fp32": "onnxruntime", "int8": "onnxruntime", "bf16": "openvino"}
"""The runtime of each precision. The graph of bf16 is that of fp32, so other runtimes can run it in fp32."""


class Figures(BaseModel):
    """Figures of one precision, on the same rows for all; `ece` in fp32's bins of rows, `microseconds` the median of a
    run on one thread."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    auc: float
    logloss: float
    ece: float
    predicted_over_observed: float
    microseconds: float


class Tried(BaseModel):
    """Result of trying a precision: figures unless it could not be run, and the reason if it was refused. `auc_worst`
    and `logloss_worst`: the worse end of the paired 95 % interval against fp32."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    figures: Figures | None = None
    auc_worst: float | None = None
    logloss_worst: float | None = None
    refused: str | None = None


class PrecisionRecord(BaseModel):
    """The requested and the chosen precision, and why. `tried` is empty if only fp32 was requested."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    asked: Literal["fp32", "int8", "bf16", "auto"] = "fp32"
    chosen: Precision = "fp32"
    candidates: Annotated[int, Field(ge=0, description="As many were scored in each timed run.")] = 0
    valid_rows: Annotated[int, Field(ge=0)] = 0
    instructions: Annotated[tuple[str, ...], Field(description="Of the CPU that it was measured on.")] = ()
    tried: dict[Precision, Tried] = {}

    @property
    def runtime(self) -> RuntimeName:
        """The runtime of the chosen precision."""
        return RUNTIMES[self.chosen]
