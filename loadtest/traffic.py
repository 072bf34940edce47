"""Requests as an ad server sends them: Zipf users and items of a bundle, its context's values, N candidates, bids."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msd.contract.bundle import ROWS, Bundle, open_bundle
from msd.contract.row_file import RowFile
from msd.contract.rows import RowCodec, RowSide
from msd.contract.schema import Categorical, FeatureSchema

_ZIPF_EXPONENT = 1.1


class Traffic:
    """An endless seeded stream of request bodies for the users and items of one bundle."""

    def __init__(self, bundle: Path, candidates: int, seed: int = 0) -> None:
        opened = open_bundle(bundle)
        self._schema = opened.schema
        self._rng = np.random.default_rng(seed)
        self._users = self._rng.permutation(_ids(opened, "user"))
        self._items = self._rng.permutation(_ids(opened, "item"))
        self._candidates = candidates
        self._at = int(opened.manifest.created_at)

    def bodies(self) -> Iterator[bytes]:
        """JSON bodies, ready to send."""
        while True:
            yield json.dumps(self._request()).encode()

    def _request(self) -> dict[str, Any]:
        # Candidates differ from each other, as long as the bundle has so many items.
        items = _zipf(self._rng, len(self._items), self._candidates, replace=self._candidates > len(self._items))
        return {
            "user_id": str(self._users[_zipf(self._rng, len(self._users), 1, replace=True)[0]]),
            "at": self._at,
            "context": _context(self._schema, self._rng),
            "candidates": {
                "id": self._items[items].tolist(),
                "bid": np.round(self._rng.lognormal(-0.5, 0.6, len(items)), 3).tolist(),
            },
        }


def _ids(bundle: Bundle, side: RowSide) -> list[str]:
    codec = RowCodec(bundle.schema, side, bundle.bundle_id)
    file = RowFile(bundle.path(ROWS[side]), codec, bundle.bundle_id)
    return [row_id for row_id, _ in file.scan(0, file.count)]


def _zipf(rng: np.random.Generator, count: int, draws: int, *, replace: bool) -> NDArray[np.int64]:
    """`draws` places below `count`, the k-th as likely as 1 / k^1.1."""
    weights = np.arange(1, count + 1) ** -_ZIPF_EXPONENT
    return rng.choice(count, draws, replace=replace, p=weights / weights.sum())


def _context(schema: FeatureSchema, rng: np.random.Generator) -> dict[str, str]:
    fields = schema.settable["context"].values()
    return {
        field.name: field.vocabulary[rng.integers(len(field.vocabulary))]
        for field in fields
        if isinstance(field, Categorical) and field.vocabulary
    }
