"""A bundle's precisions: the figures behind them, and the choice of the fastest."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

Precision = Literal["fp32", "int8", "bf16"]
RuntimeName = Literal["onnxruntime", "openvino"]
RUNTIMES: Mapping[Precision, RuntimeName] = {"fp32": "onnxruntime", "int8": "onnxruntime", "bf16": "openvino"}
"""The runtime of each precision. The graph of bf16 is that of fp32."""
LEAST_GAIN = 1.05
"""A smaller gain is within the noise, and not worth scores that differ from torch's."""


def fastest(microseconds: Mapping[Precision, float]) -> Precision:
    """Return the fastest precision, or fp32 if that gains less than 5 %."""
    best = min(microseconds, key=lambda precision: microseconds[precision])
    return best if microseconds["fp32"] >= LEAST_GAIN * microseconds[best] else "fp32"


class HeadFigures(BaseModel):
    """Figures of one head in one precision, on the same rows for all; `ece` in fp32's bins of rows."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    auc: float
    logloss: float
    ece: float
    predicted_over_observed: float


class Figures(HeadFigures):
    """Figures of clicks on all rows; `microseconds` is the median of a run of the whole model on one thread."""

    microseconds: float


class ConversionFigures(HeadFigures):
    """Figures of conversions (pcvr) on the rows with a click; the worse ends as in `Tried`."""

    clicks: int
    auc_worst: float | None
    logloss_worst: float | None


class Tried(BaseModel):
    """Result of trying a precision: figures unless it could not be run, and the reason if it was refused. `auc_worst`
    and `logloss_worst`: the worse end of the paired 95 % interval against fp32. `pcvr`: of a model with that head."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    figures: Figures | None = None
    auc_worst: float | None = None
    logloss_worst: float | None = None
    pcvr: ConversionFigures | None = None
    refused: str | None = None

    @model_serializer(mode="wrap")
    def _without_what_older_manifests_lack(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit the newer part, so that an older manifest keeps its hash."""
        document: dict[str, Any] = handler(self)
        if self.pcvr is None:
            document.pop("pcvr", None)
        return document


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
    def passed(self) -> tuple[Precision, ...]:
        """Precisions to serve in: of `auto` fp32 and all that passed the gate, otherwise the requested one."""
        if self.asked != "auto":
            return (self.chosen,)
        return (
            "fp32",
            *(name for name, one in self.tried.items() if name != "fp32" and one.figures and not one.refused),
        )
