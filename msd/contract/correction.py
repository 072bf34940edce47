"""Corrections of calibration, by bundle: a rising line in log-odds, and shifts of it by segments of requests, so that
candidates keep their order. `msd recalibrate` fits them; this module applies them.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from msd.contract.errors import ContractError, first_fault
from msd.contract.files import read_small, write_text_atomic
from msd.contract.schema import FeatureSchema
from msd.contract.segments import KNOWN, UNKNOWN_USERS, dividing, field_of, slot_in

HEAD, CONVERSIONS = "pctr", "pcvr"
"""The heads that clicks calibrate, and conversions of clicks."""
MAX_SHIFT = 1.0
"""Maximum shift of log-odds at the centre, those of segments included: odds by a factor of 2.7."""
MAX_SEGMENTS = 512
MAX_LOG_SLOPE = math.log(2)
_MAX_FILE_BYTES = 2**20
_MAX_BUNDLES = 1_000
# Scores of 0 and 1 have no log-odds. Added to any other score, this changes nothing that fp32 can represent.
_ABOVE_0, _ABOVE_1 = np.float32(1e-38), 1.0 + 1e-12


class CorrectionError(ContractError):
    """A file of corrections is invalid."""


Scores = Mapping[str, NDArray[np.float32]]
OF_USER, _OF_SLOT, _SERVED_SLOT = -1, -2, 0
Shift = tuple[int, int, float]
"""Shift of log-odds where a column of the context's categories has a value, both by number: column −1 is whether the
user is anonymous, −2 the place of the page, 0 where the request names none."""
Line = tuple[str, float, float, float, list[Shift]]
"""Head, centre, shift and slope of a correction, and shifts by segment."""
_NAMES = ("centre", "shift", "slope")


class Correction(BaseModel):
    """Maps log-odds z to centre + shift + slope × (z − centre). Shift moves the overall click rate, slope the contrast
    between scores. `conversions`: that of pcvr, beside that of pctr."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    centre: Annotated[float, Field(ge=-20, le=20)] = 0.0
    shift: Annotated[float, Field(ge=-MAX_SHIFT, le=MAX_SHIFT)] = 0.0
    slope: Annotated[float, Field(ge=math.exp(-MAX_LOG_SLOPE), le=math.exp(MAX_LOG_SLOPE))] = 1.0

    conversions: "Correction | None" = None

    @property
    def values(self) -> list[float]:
        """Return centre, shift and slope, and those of conversions, as in the request log."""
        return [self.centre, self.shift, self.slope, *(self.conversions.values if self.conversions else ())]

    @property
    def lines(self) -> list[Line]:
        """Return the line of each corrected head, without segments."""
        found = {HEAD: self, CONVERSIONS: self.conversions}
        return [(head, one.centre, one.shift, one.slope, []) for head, one in found.items() if one]

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Return the correction of `values`. Raises CorrectionError if it is out of bounds."""
        try:
            later = Correction.of(values[3:]) if len(values) > 3 else None
            return cls(**dict(zip(_NAMES, values[:3], strict=True)), conversions=later)
        except ValueError as error:
            raise CorrectionError(f"{list(values)} is not centre, shift and slope of a correction: {error}") from None

    def correct(self, scores: Scores) -> dict[str, NDArray[np.float32]]:
        """Return scores by head, those of corrected heads corrected."""
        found = {**scores, HEAD: self(scores[HEAD])}
        if self.conversions and CONVERSIONS in scores:
            found[CONVERSIONS] = self.conversions(scores[CONVERSIONS])
        return found

    def undo(self, scores: Scores) -> dict[str, NDArray[np.float32]]:
        """Return scores by head before correction, to rounding."""
        found = {**scores, HEAD: self.undone(scores[HEAD])}
        if self.conversions and CONVERSIONS in scores:
            found[CONVERSIONS] = self.conversions.undone(scores[CONVERSIONS])
        return found

    def __call__(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return corrected probabilities [N]. Non-finite ones stay so."""
        return self._line(scores, self.slope, self.centre + self.shift - self.slope * self.centre)

    def undone(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probabilities before correction, to rounding."""
        return self._line(scores, 1 / self.slope, self.centre - (self.centre + self.shift) / self.slope)

    @staticmethod
    def _line(scores: NDArray[np.float32], slope: float, offset: float) -> NDArray[np.float32]:
        # Double precision, so that rounding cannot swap two scores.
        odds = np.divide(_ABOVE_1, scores + _ABOVE_0, dtype=np.float64) - 1.0
        corrected: NDArray[np.float32] = np.reciprocal(np.exp(np.log(odds) * slope - offset) + 1.0).astype(np.float32)
        return corrected


def _segment(name: str) -> str:
    if field_of(name) is None:
        raise ValueError(f"{name!r} is not known as a segment, such as known, anonymous, device=ios or slot 2")
    return name


class LearnedCorrection(Correction):
    """A correction, its shifts by segment, and its data: impressions and clicks, or clicks and conversions, the latest
    at `at` (Unix seconds)."""

    segments: Annotated[
        dict[Annotated[str, AfterValidator(_segment)], Annotated[float, Field(ge=-MAX_SHIFT, le=MAX_SHIFT)]],
        Field(max_length=MAX_SEGMENTS),
    ] = {}
    at: Annotated[float, Field(ge=0)]
    impressions: Annotated[int, Field(ge=0)]
    clicks: Annotated[int, Field(ge=0)]
    conversions: "LearnedCorrection | None" = None

    def lines_for(self, schema: FeatureSchema) -> list[Line]:
        """Return the line of each corrected head, with the segments that requests of a schema can have."""
        found = {HEAD: self, CONVERSIONS: self.conversions}
        return [
            (head, one.centre, one.shift, one.slope, list(_shifts(one.segments, schema)))
            for head, one in found.items()
            if one
        ]

    def within(self, segments: Iterable[str]) -> Correction:
        """Return the correction of requests of these segments."""
        names, shift = set(segments), self.shift
        for name, own in self.segments.items():  # in their order, as the core adds them
            shift += own if name in names else 0.0
        later = self.conversions.within(names) if self.conversions else None
        bounded = min(max(shift, -MAX_SHIFT), MAX_SHIFT)
        return Correction(centre=self.centre, shift=bounded, slope=self.slope, conversions=later)


def _shifts(segments: Mapping[str, float], schema: FeatureSchema) -> Iterable[Shift]:
    """Yield the shifts that requests of a schema can have, as numbers."""
    for name, shift in segments.items():
        if name in (KNOWN, UNKNOWN_USERS):
            yield OF_USER, int(name == UNKNOWN_USERS), shift
        elif slot := slot_in(name):
            if schema.position is not None:
                yield _OF_SLOT, slot, shift
                if slot == schema.slot_of():
                    yield _OF_SLOT, _SERVED_SLOT, shift
        else:
            field, _, value = name.partition("=")
            for one in dividing(schema, [field]):
                if value in one.index:
                    yield schema.columns[field].start, one.index[value], shift


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1, 2] = 1
    bundles: Annotated[dict[str, LearnedCorrection], Field(max_length=_MAX_BUNDLES)]


def read_corrections(path: Path) -> dict[str, LearnedCorrection]:
    """Read corrections by bundle_id; none if there is no file. Raises CorrectionError, which says what is wrong with
    it, and where."""
    try:
        path.stat()
    except FileNotFoundError:
        return {}
    except OSError:
        pass  # reading it says why
    content = read_small(path, _MAX_FILE_BYTES, CorrectionError, "; `msd recalibrate` writes it")
    try:
        return _File.model_validate_json(content).bundles
    except ValidationError as error:
        raise CorrectionError(f"{path}: {first_fault(error)}; `msd recalibrate` writes it") from None


def write_corrections(path: Path, bundles: Mapping[str, LearnedCorrection]) -> None:
    """Write them, in format 1 if none has segments, so that services of earlier releases can read it."""
    lines = [line for one in bundles.values() for line in (one, one.conversions) if line]
    file = _File(format_version=2 if any(line.segments for line in lines) else 1, bundles=dict(bundles))
    document = file.model_dump(exclude_none=True)
    for line in _lines_in(document["bundles"]) if file.format_version == 1 else ():
        line.pop("segments")
    written = json.dumps(document, indent=2)
    write_text_atomic(path, written + "\n")


def _lines_in(bundles: Mapping[str, dict[str, Any]]) -> Iterable[dict[str, Any]]:
    for one in bundles.values():
        yield one
        if "conversions" in one:
            yield one["conversions"]
