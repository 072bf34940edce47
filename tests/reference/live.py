"""Live states laid over rows, in Python: the reference of what the native core lays."""

from typing import NamedTuple

import numpy as np

from msd.contract.rows import Rows
from msd.contract.schema import FeatureSchema
from msd.contract.state import decay, state_rules
from service.live.live_state import unpack_counts
from service.live.store import PackedStates, Stream


class AsOf(NamedTuple):
    """The query: time (Unix s), end of the stream, time up to which the rows are complete, and the longest gap in the
    stream that counts as "nothing happened"."""

    at: float
    stream: Stream
    horizon: float
    lag_s: float


def with_counts(rows: Rows, states: PackedStates, half_life_s: float, moment: AsOf) -> Rows:
    """Return rows [n] with live counts in the first ones, one per state.

    While the stream flows, counts decay to the requested time and are complete up to it; otherwise up to the stream's
    last event. A row's age is extended only if it is known to have no live state, and the stream followed it without a
    gap.
    """
    live = unpack_counts(states.packed)
    records = rows.records.copy()
    own = records[: len(live.found)]
    is_newer = live.found & (live.as_of > own["as_of"])
    as_of = np.where(is_newer, live.as_of, own["as_of"])
    reached = moment.stream.complete_at(moment.at, moment.lag_s)
    is_followed = np.full(len(own), moment.stream.covers(moment.horizon, moment.lag_s))
    if states.known is not None:
        is_followed &= states.known
    is_followed |= is_newer
    complete = np.where(is_followed, np.maximum(as_of, reached), as_of)
    fade = decay(complete - as_of, half_life_s)
    for name, column in (("impressions", live.impressions), ("clicks", live.clicks)):
        own[name] = np.where(is_newer, column, own[name]) * fade
    own["as_of"] = complete
    return rows._replace(records=records)


def laid(
    schema: FeatureSchema,
    user: Rows,
    items: Rows,
    of_user: PackedStates | None,
    of_items: PackedStates,
    at: float,
    lag_s: float,
) -> tuple[Rows, Rows]:
    """Return a user's row [1] and the rows of candidates and history with the states of the user, None if it is
    anonymous, and of the candidates."""
    if of_items.stream is None:
        return user, items
    # An export's rows are complete up to the latest of them; a user's alone ends with that user's last event.
    candidates = items.records["as_of"][: len(of_items.packed)]
    horizon = float(max(user.records["as_of"].max(), candidates.max(initial=0.0)))
    moment, rules = AsOf(at, of_items.stream, horizon, lag_s), state_rules(schema)
    items = with_counts(items, of_items, rules["item"].half_life_s, moment)
    return user if of_user is None else with_counts(user, of_user, rules["user"].half_life_s, moment), items
