"""Requests as an ad server sends them: users and items of a bundle by Zipf's law, its context's values, N candidates,
bids, and optionally unknown ads; and the times at which they arrive.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msd.contract.bundle import Bundle, open_bundle
from msd.contract.errors import MsdError
from msd.contract.openrtb import OpenrtbMapping
from msd.contract.row_file import RowFile
from msd.contract.rows import RowSide
from msd.contract.schema import Categorical, FeatureSchema

_ZIPF_EXPONENT = 1.1
_WORDS = ("summer", "city", "garden", "night", "family", "mountain", "music", "vintage", "robot", "coffee")

Times = NDArray[np.float64]
"""Arrival times: seconds from the start of a run, in order."""
Arrivals = Callable[[float, float, int], Times]
"""Returns arrival times for a rate per second, a duration and a seed."""
Mix = Mapping[int, float]
"""Weights of numbers of candidates; they need not sum to 1."""


class Traffic:
    """An endless seeded stream of request bodies for the users and items of one bundle.

    cold: the share of candidates that are unknown ads, each with a text.
    """

    def __init__(self, bundle: Path, candidates: int | Mix, seed: int = 0, cold: float = 0.0) -> None:
        opened = open_bundle(bundle)
        self._seed, self._cold, self._new = seed, cold, 0
        self._schema = opened.schema
        self._rng = np.random.default_rng(seed)
        self._users = self._rng.permutation(_ids(opened, "user"))
        self._items = self._rng.permutation(_ids(opened, "item"))
        self._chances = {len(ids): zipf(len(ids)) for ids in (self._users, self._items)}
        mix = {candidates: 1.0} if isinstance(candidates, int) else candidates
        self._counts, shares = list(mix), np.array(list(mix.values()))
        self._shares = shares / shares.sum()
        self._at = int(opened.manifest.created_at)
        self._mapping = opened.manifest.openrtb
        self._bundle = bundle

    @property
    def mapping(self) -> OpenrtbMapping:
        """The bundle's mapping of BidRequests. Raises MsdError if it lacks one."""
        if self._mapping is None:
            raise MsdError(
                f"{self._bundle}: maps no BidRequests; declare [openrtb] in dataset.toml, and export it again"
            )
        return self._mapping

    def bodies(self) -> Iterator[bytes]:
        """Yield JSON bodies, ready to send."""
        while True:
            yield json.dumps(self._request()).encode()

    def _request(self) -> dict[str, Any]:
        count = self._counts[0]
        if len(self._counts) > 1:
            count = int(self._rng.choice(self._counts, p=self._shares))
        # Candidates are distinct, if the bundle has enough items.
        items = self._draw(self._items, count, replace=count > len(self._items))
        request = {
            "user_id": str(self._draw(self._users, 1, replace=True)[0]),
            "at": self._at,
            "context": _context(self._schema, self._rng),
            "candidates": {
                "id": items.tolist(),
                "bid": np.round(self._rng.lognormal(-0.5, 0.6, count), 3).tolist(),
            },
        }
        return request if not self._cold else self._with_new_ads(request)

    def _with_new_ads(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the request with some candidates replaced by new ads."""
        ids, texts = request["candidates"]["id"], {}
        for place in np.flatnonzero(self._rng.random(len(ids)) < self._cold):
            ids[place] = f"new-{self._seed}-{self._new}"
            texts[ids[place]] = {"text": f"{' '.join(self._rng.choice(_WORDS, 3))}, offer {self._seed}-{self._new}"}
            self._new += 1
        return request | ({"items": texts} if texts else {})

    def _draw(self, ids: NDArray[np.str_], count: int, *, replace: bool) -> NDArray[np.str_]:
        chosen: NDArray[np.str_] = ids[self._rng.choice(len(ids), count, replace=replace, p=self._chances[len(ids)])]
        return chosen


def mix_of(text: str) -> dict[int, float]:
    """Parse `200`, or weights of several numbers: `50:3,200:1`. Raises MsdError for anything else."""
    mix: dict[int, float] = {}
    for part in text.split(","):
        count, _, share = part.partition(":")
        try:
            mix[int(count)] = float(share or 1)
        except ValueError:
            mix = {}
            break
    if not mix or not all(count > 0 and 0 < share < float("inf") for count, share in mix.items()):
        raise MsdError(f"{text!r} is not a number of candidates; expected 200, or shares such as 50:3,200:1")
    return mix


def mix_text(mix: Mix) -> str:
    """Return the text that `mix_of` reads: `200`, or `50:3,200:1`."""
    return ",".join(f"{count}:{share:g}" if len(mix) > 1 else str(count) for count, share in mix.items())


def _ids(bundle: Bundle, side: RowSide) -> list[str]:
    file = RowFile.of(bundle, side)
    return [row_id for row_id, _ in file.scan(0, file.count)]


def zipf(count: int) -> NDArray[np.float64]:
    """Return the probability of each index below `count`: the k-th as 1 / k^1.1."""
    weights = np.arange(1, count + 1) ** -_ZIPF_EXPONENT
    chances: NDArray[np.float64] = weights / weights.sum()
    return chances


def constant(rate: float, seconds: float, seed: int = 0) -> Times:
    """Return one arrival every 1 / rate seconds."""
    return np.arange(int(rate * seconds)) / rate


def poisson(rate: float, seconds: float, seed: int = 0) -> Times:
    """Return independent arrivals: the gaps are exponentially distributed."""
    rng = np.random.default_rng(seed)
    # Given their number, the times of a Poisson process are uniform.
    return np.sort(rng.uniform(0, seconds, rng.poisson(rate * seconds)))


def bursts(rate: float, seconds: float, seed: int = 0, size: int = 8) -> Times:
    """Return bursts of `size` at the times of a Poisson process."""
    return np.repeat(poisson(rate / size, seconds, seed), size)


def _context(schema: FeatureSchema, rng: np.random.Generator) -> dict[str, str]:
    fields = schema.settable["context"].values()
    return {
        field.name: field.vocabulary[rng.integers(len(field.vocabulary))]
        for field in fields
        if isinstance(field, Categorical) and field.vocabulary
    }
