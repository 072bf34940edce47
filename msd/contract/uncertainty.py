"""How uncertain a score is: the standard deviation of a candidate's log-odds, from what is known of the ad.

A bundle's manifest holds the one fitted number. Does not know how it was fitted, nor what uses it.
"""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from msd.contract.schema import STATE_FEATURES, FeatureSchema
from msd.contract.tensors import Tensors

COLUMN = "logit_std"
"""Column of a reply's candidates, and name among a logged request's scores."""
# Share of a new ad's deviation that impressions never take away, so that no known ad is taken as certain.
_FLOOR = 0.2


class Coverage(BaseModel):
    """Of `items` ads held out of the fit: the share whose number of clicks lies in the central 50 and 90 % of its
    predicted distribution."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    items: Annotated[int, Field(ge=1)]
    within_50: float
    within_90: float
    median_std: float


class Uncertainty(BaseModel):
    """An ad's log-odds lie around the model's by a normal deviation of variance 1 ÷ (1 ÷ new² + impressions × p ×
    (1 − p)) + (new ÷ 5)². The first part is the posterior of the ad's own effect, given its decayed impressions. The
    second is what impressions never show."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    new: Annotated[float, Field(gt=0, le=10, description="Prior standard deviation of an ad's own effect.")]
    coverage: dict[str, Coverage] = Field(default={}, description="By how well ads are known: new, rare, frequent.")

    @property
    def precision(self) -> float:
        """Return that of a new ad's own effect."""
        return self.new**-2

    @property
    def floor(self) -> float:
        """Return the variance that impressions never take away."""
        return (_FLOOR * self.new) ** 2

    def logit_std(self, impressions: NDArray[np.floating], pctr: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the deviation [N] of log-odds, of impressions [N] and scores [N]."""
        scores = np.asarray(pctr, np.float64)
        known = np.asarray(impressions, np.float64) * scores * (1.0 - scores)
        std: NDArray[np.float32] = np.sqrt(1.0 / (self.precision + known) + self.floor).astype(np.float32)
        return std


def impressions_of(schema: FeatureSchema, tensors: Tensors) -> NDArray[np.float64]:
    """Return each candidate's decayed impressions [N], as its inputs tell them."""
    column = schema.numeric_width("item") + STATE_FEATURES.index("log_impressions")
    impressions: NDArray[np.float64] = np.expm1(tensors["item_dense"][:, column].astype(np.float64))
    return np.maximum(impressions, 0.0)
