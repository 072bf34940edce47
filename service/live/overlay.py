"""Live states laid over rows: counts, their age, and the history, as they are now instead of as they were exported.

Pure. What comes out are rows like any others, so whatever scores, logs or replays rows knows nothing of this.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from msd.contract.live_state import unpack_counts, unpack_state
from msd.contract.rows import Rows, RowSide
from msd.contract.schema import FeatureSchema
from msd.contract.state import StateRule
from service.live.batch import SIDES
from service.live.store import States
from service.live.stream import Stream

_HALF_LIFE_S = 30 * 86_400.0


class Moment(NamedTuple):
    """What is asked about: the time (unix s), how far the stream reaches, up to when the rows are complete."""

    at: float
    stream: Stream
    horizon: float


@dataclass(frozen=True, slots=True)
class Overlay:
    """Of one schema. `lag_s`: the longest silence of the stream in which nothing can have happened."""

    schema: FeatureSchema
    lag_s: float

    def history(self, user: Rows, states: States) -> Rows:
        """The user's row [1] with the live history, where that reaches further than the row's."""
        live = unpack_state(states.packed[0])
        if live is None or live.state.as_of <= user.records["as_of"][0]:
            return user
        return user._replace(histories=(live.state.history,))

    def counts(self, rows: Rows, states: States, half_life_s: float, moment: Moment) -> Rows:
        """Rows [n] with live counts in the first of them, of which there are as many as states.

        Counts fade to, and are complete up to, the asked time as long as the stream flows; else up to its last event.
        A row is taken further only if it is known to have no live state, and the stream has followed it without a gap.
        """
        live = unpack_counts(states.packed)
        records = rows.records.copy()
        own = records[: len(live.found)]
        is_newer = live.found & (live.as_of > own["as_of"])
        as_of = np.where(is_newer, live.as_of, own["as_of"])
        reached = moment.stream.complete_at(moment.at, self.lag_s)
        is_followed = np.full(len(own), moment.stream.covers(moment.horizon, self.lag_s))
        if states.known is not None:
            is_followed &= states.known
        is_followed |= is_newer
        complete = np.where(is_followed, np.maximum(as_of, reached), as_of)
        fade = np.exp2((as_of - complete) / half_life_s)
        for name, column in (("impressions", live.impressions), ("clicks", live.clicks)):
            own[name] = np.where(is_newer, column, own[name]) * fade
        own["as_of"] = complete
        return rows._replace(records=records)


def state_rules(schema: FeatureSchema) -> dict[RowSide, StateRule]:
    """By side, how states fade and how many likes they keep; a side whose counts no model reads fades as the other."""
    own = {side: state.half_life_s for side in SIDES if (state := schema.state(side))}
    some = next(iter(own.values()), _HALF_LIFE_S)
    return {side: StateRule(own.get(side, some), schema.history.length) for side in SIDES}
