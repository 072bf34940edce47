"""Reference distributions of a model's inputs and scores at export, and the distance of others (PSI). Knows dense
inputs by name. Does not know where tensors come from.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from msd.contract.schema import SIDES, STATE_FEATURES, FeatureSchema
from msd.contract.tensors import Tensors

Floats = NDArray[np.floating[Any]]
_BINS = 10
# Smoothing per bin, so that an empty bin is not infinitely surprising.
_PRIOR = 0.5


class Distribution(BaseModel):
    """Shares of values by bins with upper `edges`, the last open, after the share of missing values."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    edges: tuple[float, ...]
    shares: Annotated[tuple[float, ...], Field(min_length=2)]
    rows: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if len(self.shares) != len(self.edges) + 2:
            raise ValueError("there is one share for missing values, and one more than edges")
        if any(low >= high for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("edges ascend")
        return self

    @classmethod
    def of(cls, values: Floats) -> Self:
        """Return the distribution of values [n], NaN if missing, in bins of about equal size."""
        present = values[~np.isnan(values)]
        quantiles = (
            np.quantile(present, np.linspace(0, 1, _BINS + 1)[1:-1], method="inverted_cdf")
            if len(present)
            else np.empty(0)
        )
        # A frequent value can be several quantiles; the last bin needs something above its edge.
        edges = np.unique(quantiles[quantiles < present.max(initial=-np.inf)])
        counts = counted(edges, values)
        return cls(edges=tuple(edges.tolist()), shares=tuple((counts / counts.sum()).tolist()), rows=len(values))

    def counts(self, values: Floats) -> Floats:
        """Return the number of missing values, then counts by bin [B]."""
        return counted(np.array(self.edges), values)

    def psi(self, counts: Floats) -> float:
        """Return the population stability index of counts [B] against the shares: Σ (p − q)·ln(p ÷ q). 0 is the same;
        from about .25 on a model is seldom fit for what it sees (Siddiqi 2006). Bins are smoothed by half a value each.
        """
        then = np.array(self.shares) * self.rows + _PRIOR
        now = counts + _PRIOR
        p, q = now / now.sum(), then / then.sum()
        return float(((p - q) * np.log(p / q)).sum())


class Reference(BaseModel):
    """Distributions of valid rows: of each dense input by name, and of scores by head."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: dict[str, Distribution]
    scores: dict[str, Distribution]


class DenseInput(NamedTuple):
    """A column of one of the schema's dense tensors, and its missing flag's column, if any."""

    tensor: str
    column: int
    missing: int | None = None

    def values(self, tensors: Tensors) -> Floats:
        """[n], NaN where missing."""
        tensor = tensors[self.tensor]
        values: Floats = tensor[:, self.column].astype(np.float64)
        return values if self.missing is None else np.where(tensor[:, self.missing] > 0, np.nan, values)


def dense_inputs(schema: FeatureSchema) -> dict[str, DenseInput]:
    """Return all of a schema's dense inputs: its numbers, `field.feature` of its counts, `field.present` of its
    vectors."""
    found: dict[str, DenseInput] = {}
    for side in SIDES:
        tensor = f"{side}_dense"
        for numeric in schema.numerics(side):
            start = schema.columns[numeric.name].start
            found[numeric.name] = DenseInput(tensor, start, start + 1)
        column = schema.numeric_width(side)
        if state := schema.state(side):
            for feature in STATE_FEATURES:
                found[f"{state.name}.{feature}"] = DenseInput(tensor, column)
                column += 1
        if semantic := schema.semantic(side):
            found[f"{semantic.name}.present"] = DenseInput(tensor, column)
    return found


def reference_of(
    schema: FeatureSchema, rows: Sequence[Tensors], scores: Mapping[str, NDArray[np.floating[Any]]]
) -> Reference:
    """Return the distributions of requests' tensors, and of their scores by head."""
    inputs = {
        name: Distribution.of(np.concatenate([one.values(tensors) for tensors in rows]))
        for name, one in dense_inputs(schema).items()
    }
    return Reference(inputs=inputs, scores={head: Distribution.of(column) for head, column in scores.items()})


def counted(edges: Floats, values: Floats) -> Floats:
    is_missing = np.isnan(values)
    # A value on an edge belongs to the bin that ends there.
    bins = np.searchsorted(edges, values[~is_missing], side="left")
    return np.concatenate([[is_missing.sum()], np.bincount(bins, minlength=len(edges) + 1)]).astype(np.float64)
