"""What becomes of candidates for whose scoring the time does not suffice: each gets the score of an item of which
nothing is known, by the same run, and says so. Knows scores and ids. Does not know time.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from msd.contract.assemble import Rung
from service.runtimes.runtime import Scores


def spread(scores: Scores, ids: Sequence[str]) -> Scores:
    """Scores [N] of all ids from those [k + 1] of the first k and, behind them, of an unknown item."""
    count = _scored(scores)
    first = {one: place for place, one in reversed(list(enumerate(ids[:count])))}
    # An id that was scored has one score, however often it is asked for.
    order = np.array([*range(count), *(first.get(one, count) for one in ids[count:])])
    return {head: column[order] for head, column in scores.items()}


def declared(scores: Scores, ids: Sequence[str], degraded: Mapping[str, Rung]) -> dict[str, Rung]:
    """The degradation to declare where only the first k ids were scored."""
    count = _scored(scores)
    late = set(ids[count:]) - set(ids[:count])
    return {**degraded, **dict.fromkeys((one for one in ids[count:] if one in late), "prior")}


def _scored(scores: Scores) -> int:
    return len(next(iter(scores.values()))) - 1
