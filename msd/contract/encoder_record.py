"""A manifest's record of the text encoder: its precision, and texts with their expected vectors."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer


class Probe(BaseModel):
    """A text and its vector [D]."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    text: str
    vector: tuple[float, ...]


class ColdAds(BaseModel):
    """Measured gain of encoding a new ad's text: over `rows` rows of `items` items that were withheld from the student,
    AUC by input, and the gain of text over features alone with its 95 % interval.

    auc: `category_prior` has the features, `encoded` the text too, `taught` the vector of a student that was taught the
    item, `row` the item's own row.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rows: int
    items: int
    auc: dict[str, float]
    gain: float
    ci95: tuple[float, float] | None
    test: str

    @property
    def pay(self) -> bool:
        """Whether the gain is significant."""
        return self.ci95 is not None and self.ci95[0] > 0

    def __str__(self) -> str:
        ends = "no interval" if self.ci95 is None else "95 %: {:+.4f} to {:+.4f}".format(*self.ci95)
        return (
            f"text that the student was not taught gains {self.gain:+.4f} AUC over a new ad's features ({ends}; "
            f"{self.rows} rows of {self.items} items): {'it pays' if self.pay else 'no sure gain'}"
        )


class EncoderRecord(BaseModel):
    """How the encoder runs, and probes that it must reproduce, to `tolerance` a component. Earlier releases may have
    chosen int8 by `figures`, or `refused` it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    precision: Literal["fp32", "int8"] = "fp32"
    tolerance: Annotated[float, Field(gt=0)]
    probes: Annotated[tuple[Probe, ...], Field(min_length=1)]
    figures: dict[str, int | float] | None = None
    refused: str | None = None
    cold_ads: ColdAds | None = Field(default=None, description="None where it could not be measured.")

    @model_serializer(mode="wrap")
    def _without_what_older_records_lack(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit newer parts, so that an older manifest keeps its hash."""
        document: dict[str, Any] = handler(self)
        if document["cold_ads"] is None:
            del document["cold_ads"]
        return document
