"""The ids that were shown most, left beside the rows in Redis, so that a service knows what to bring near first.

Does not know who reads them, nor that rows change later: it is a hint.
"""

import struct
from array import array
from collections.abc import Mapping, Sequence
from itertools import count

import numpy as np
from redis import Redis

from msd.contract.redis_keys import shown_key
from msd.contract.rows import RowCodec, RowSide, pack_history

# Of each side; as many as there is room for with a MSD_CACHE_MB of a thousand.
_AT_MOST = 2**20
_IDS_A_KEY = 1_000


class MostShown:
    """Sees all rows that are published, and keeps the ids of those with the most impressions."""

    def __init__(self, codecs: Mapping[RowSide, RowCodec], at_most: int = _AT_MOST) -> None:
        self._at_most = at_most
        self._impressions_at = {side: _offset(codec, "impressions") for side, codec in codecs.items()}
        self._ids: dict[RowSide, list[str]] = {side: [] for side in codecs}
        self._impressions = {side: array("f") for side in codecs}

    def see(self, side: RowSide, rows: Sequence[tuple[str, bytes]]) -> None:
        """Takes note of some rows."""
        place = self._impressions_at[side]
        self._ids[side] += [one for one, _ in rows]
        self._impressions[side].extend([struct.unpack_from("<f", row, place)[0] for _, row in rows])
        if len(self._ids[side]) >= 2 * self._at_most:
            self._cut(side)

    def write(self, redis: Redis, bundle_id: str) -> None:
        """Replaces what an earlier publication left."""
        for side, ids in self._ids.items():
            self._cut(side)
            numbers = count()
            for start in range(0, len(ids), _IDS_A_KEY):
                redis.set(shown_key(bundle_id, side, next(numbers)), pack_history(ids[start : start + _IDS_A_KEY]))
            while redis.unlink(shown_key(bundle_id, side, next(numbers))):
                pass

    def _cut(self, side: RowSide) -> None:
        ids, impressions = self._ids[side], np.array(self._impressions[side])
        order = np.argsort(-impressions, kind="stable")[: self._at_most].tolist()
        ids[:] = [ids[place] for place in order]
        self._impressions[side] = array("f", impressions[order])


def _offset(codec: RowCodec, name: str) -> int:
    """Where a number lies in a row."""
    assert codec.dtype.fields is not None, "a row has fields"
    return int(codec.dtype.fields[name][1])
