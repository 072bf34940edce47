"""What a manifest says of the bundle's text encoder: its precision, why, and texts with the vectors they must get."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

EncoderPrecision = Literal["fp32", "int8"]


class Probe(BaseModel):
    """A text and its vector [D]."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    text: str
    vector: tuple[float, ...]


class EncoderFigures(BaseModel):
    """Of int8 against fp32: over the vectors of `texts` texts the cosine that 99 % reach and the greatest difference of
    a component; over `rows` valid rows, their items scored as cold ads, the mean change of pCTR as a share of its mean.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    texts: int
    cosine_p1: float
    greatest_difference: float
    rows: int
    pctr_shift: float


class EncoderRecord(BaseModel):
    """How the encoder runs, and how whoever runs it proves itself: by the probes, to `tolerance` a component."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    precision: EncoderPrecision = "fp32"
    tolerance: Annotated[float, Field(gt=0)]
    probes: Annotated[tuple[Probe, ...], Field(min_length=1)]
    figures: EncoderFigures | None = Field(default=None, description="Of int8, where it was tried.")
    refused: str | None = Field(default=None, description="Why int8 was not taken, where it was tried.")
