"""Corrections of calibration: what `msd recalibrate` learned from clicks, by bundle, and how scores are moved by it.

A correction is a line in log-odds that rises, so that it keeps the order of scores. Does not know how it is learned.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from msd.contract.errors import ContractError, first_fault
from msd.contract.files import read_small, write_text_atomic

HEAD = "pctr"
"""The head that clicks say something of."""
MAX_SHIFT = 1.0
"""Most that log-odds are moved at the centre: odds by a factor of 2.7."""
MAX_LOG_SLOPE = math.log(2)
_MAX_FILE_BYTES = 2**20
_MAX_BUNDLES = 1_000
# Scores of 0 and 1 have no log-odds. Added to any other, these change nothing that fp32 can hold.
_ABOVE_0, _ABOVE_1 = np.float32(1e-38), 1.0 + 1e-12


class CorrectionError(ContractError):
    """A file of corrections that is none."""


class Correction(BaseModel):
    """Log-odds z become centre + shift + slope × (z − centre). The first moves the click rate as a whole, the second
    the contrast between scores."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    centre: Annotated[float, Field(ge=-20, le=20)] = 0.0
    shift: Annotated[float, Field(ge=-MAX_SHIFT, le=MAX_SHIFT)] = 0.0
    slope: Annotated[float, Field(ge=math.exp(-MAX_LOG_SLOPE), le=math.exp(MAX_LOG_SLOPE))] = 1.0

    @property
    def values(self) -> list[float]:
        """Centre, shift and slope, as the request log has them."""
        return [self.centre, self.shift, self.slope]

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The correction of `values`. Raises CorrectionError if it is out of bounds."""
        try:
            return cls(**dict(zip(("centre", "shift", "slope"), values, strict=True)))
        except ValueError as error:
            raise CorrectionError(f"{list(values)} is not centre, shift and slope of a correction: {error}") from None

    def __call__(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Corrected probabilities [N] of probabilities [N]. What is not finite stays so."""
        return self._line(scores, self.slope, self.centre + self.shift - self.slope * self.centre)

    def undone(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """The probabilities that were corrected to these, to rounding."""
        return self._line(scores, 1 / self.slope, self.centre - (self.centre + self.shift) / self.slope)

    @staticmethod
    def _line(scores: NDArray[np.float32], slope: float, offset: float) -> NDArray[np.float32]:
        # In double precision, so that rounding cannot swap two scores. In place, as this is in every request's way.
        odds = np.divide(_ABOVE_1, scores + _ABOVE_0, dtype=np.float64)
        odds -= 1.0
        np.log(odds, odds)
        odds *= slope
        odds -= offset
        np.exp(odds, odds)
        odds += 1.0
        corrected: NDArray[np.float32] = np.reciprocal(odds, odds).astype(np.float32)
        return corrected


class LearnedCorrection(Correction):
    """A correction, and what it was learned from: impressions and clicks, the latest at `at` (Unix seconds)."""

    at: Annotated[float, Field(ge=0)]
    impressions: Annotated[int, Field(ge=0)]
    clicks: Annotated[int, Field(ge=0)]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    bundles: Annotated[dict[str, LearnedCorrection], Field(max_length=_MAX_BUNDLES)]


def read_corrections(path: Path) -> dict[str, LearnedCorrection]:
    """Corrections by bundle_id; none where there is no file. Raises CorrectionError, which says what is wrong with it,
    and where."""
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
        place, words, _ = first_fault(error)
        raise CorrectionError(f"{path}: {place or 'the file'}: {words}; `msd recalibrate` writes it") from None


def write_corrections(path: Path, bundles: Mapping[str, LearnedCorrection]) -> None:
    """Replace the file."""
    write_text_atomic(path, _File(bundles=dict(bundles)).model_dump_json(indent=2) + "\n")
