"""Real rows as the service sees them: train rows for scales, valid rows to judge by.

Tensors are made from the bundle's own rows. Knows nothing about graphs.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from model_export.errors import ExportError
from model_export.parity import plain_request, spread
from msd.contract.tensors import Tensors
from msd.dataset.load import Dataset
from msd.dataset.split import Part
from msd.metrics import Labels
from msd.ranker.features import Features
from native.bundle_rows import BundleRows

CONVERSIONS = "pcvr"
"""The head judged by conversions of clicks; of the others only clicks are judged."""
_TRAIN_ROWS = 1_000
_VALID_ROWS = 10_000
_TIMED_ROWS = 50
_REFERENCE_ROWS = 2_000


class Evidence:
    """Rows of a dataset, evenly spread: up to 1,000 train rows for scales, up to 10,000 valid rows to judge by."""

    def __init__(self, dataset: Dataset, features: Features, rows: BundleRows) -> None:
        self._dataset = dataset
        self._features = features
        self._rows = rows
        self._train = spread(features.of_part(Part.TRAIN), _TRAIN_ROWS)
        self._valid = spread(features.of_part(Part.VALID), _VALID_ROWS)
        self.labels: Labels = features.labels.numpy()[self._valid].astype(np.float64)
        self.conversions: Labels | None = (
            None if features.conversions is None else features.converted(np.asarray(self._valid, np.int64))
        )
        """Whether each valid row is a click that converted, if the dataset has conversions."""
        self.items: NDArray[np.int64] = features.item.rows.numpy()[self._valid].astype(np.int64)
        self.is_aggregated = bool((features.impressions.numpy()[self._valid] != 1).any())
        self.users: NDArray[np.int64] = features.people(np.asarray(self._valid, np.int64))

    def train(self) -> Iterator[Tensors]:
        """Return the tensors of each train row, with one candidate each."""
        return map(self._tensors, self._train)

    def valid(self) -> Iterator[Tensors]:
        """Return the tensors of each valid row, with one candidate each, in the order of `labels` and `users`.

        Raises ExportError if all have one label: nothing could be judged by them.
        """
        if len(np.unique(self.labels)) < 2:
            raise ExportError(
                "the valid rows have one label only: nothing to judge a precision by; use --precision fp32"
            )
        return map(self._tensors, self._valid)

    def unjudged(self, heads: Sequence[str]) -> str | None:
        """Return why these rows cannot judge a model's conversions, if it has them."""
        if CONVERSIONS not in heads:
            return None
        if self.conversions is None:
            return "the head pcvr cannot be judged: the dataset names no conversions"
        if len(np.unique(self.conversions[self.labels > 0])) < 2:
            return "the head pcvr cannot be judged: all of the valid clicks convert, or none"
        return None

    def some(self) -> Iterator[Tensors]:
        """Return the tensors of up to 2,000 valid rows, with one candidate each, whatever their labels."""
        return map(self._tensors, self._valid[:: max(1, len(self._valid) // _REFERENCE_ROWS)][:_REFERENCE_ROWS])

    def unknown(self) -> Tensors:
        """Return the tensors of the first valid row, with an unknown item."""
        golden = self._rows.golden(plain_request(self._dataset, self._features, self._valid[0]))
        return self._rows.tensors(golden.model_copy(update={"items": {}}))

    def request(self, candidates: int) -> Tensors:
        """Return the tensors of one user with that many candidates: those of the first valid rows, repeated."""
        some, schema = self._timed, self._features.schema
        items = [spec.name for spec in schema.tensors if spec.side == "item"]
        joined = {name: np.concatenate([one[name] for one in some]) for name in items}
        return some[-1] | {name: np.resize(rows, (candidates, *rows.shape[1:])) for name, rows in joined.items()}

    @cached_property
    def _timed(self) -> list[Tensors]:
        return [self._tensors(row) for row in self._valid[:_TIMED_ROWS]]

    def _tensors(self, row: int) -> Tensors:
        request = plain_request(self._dataset, self._features, row)
        return {name: np.ascontiguousarray(one) for name, one in self._rows.tensors(self._rows.golden(request)).items()}
