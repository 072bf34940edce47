"""Walks all events in time order and notes, for each row, what was known strictly before it: history and counts.

Uses the contract's fold and nothing else, so that training sees what a service would have known. Counts come from
window and train rows alone; a history holds every earlier click.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from msd.contract.assemble import Counts
from msd.contract.schema import FeatureSchema
from msd.contract.state import EntityState, Event, StateRule, advance, fold
from msd.dataset.aggregate import impressions_of
from msd.dataset.load import Dataset
from msd.dataset.split import Part
from msd.ranker.entities import Entities

_AGING_SEED = 20_240_612
_SIDES = ("user", "item")
_AGED = 4  # draws of earlier counts a row


@dataclass(frozen=True)
class Timeline:
    """By event: history [E, L] as item rows (−1 pads, oldest first), and counts of user and item as [E] columns.

    `live_*` count every earlier event, whatever its part, as a service with feedback does. `aged_*` are the other
    counts as they stood earlier, drawn several times, so that a model trained on all serves well with counts of any
    age. `final_*` hold the states after all window and train rows, by row.
    """

    history: NDArray[np.int32]
    user_counts: Counts
    item_counts: Counts
    live_user_counts: Counts
    live_item_counts: Counts
    aged_user_counts: list[Counts]
    aged_item_counts: list[Counts]
    final_users: dict[int, EntityState]
    final_items: dict[int, EntityState]
    ends_at: float


def state_rule(schema: FeatureSchema) -> StateRule:
    """How states fade and how much they remember, as the schema says."""
    state = schema.state("user")
    assert state is not None, "every fitted schema has the user's counts"
    return StateRule(state.half_life_s, schema.history.length)


def walk_events(
    dataset: Dataset, schema: FeatureSchema, parts: NDArray[np.int8], users: Entities, items: Entities
) -> Timeline:
    """The timeline of a dataset's events, which are sorted by time."""
    events = dataset.events
    at = events["at"].to_numpy().astype(np.float64)
    clicked = events["label"].to_numpy().astype(bool)
    times = impressions_of(events).to_list()
    user_rows, item_rows = users.places(events["user_id"]), items.places(events["item_id"])
    rule = state_rule(schema)
    rng = np.random.default_rng(_AGING_SEED)
    history = np.full((len(at), rule.history_length), -1, np.int32)
    fresh, live = ({side: np.zeros((len(at), 3)) for side in _SIDES} for _ in range(2))
    aged = {side: np.zeros((_AGED, len(at), 3)) for side in _SIDES}
    seen: dict[str, dict[int, EntityState]] = {side: defaultdict(EntityState) for side in _SIDES}
    snapshots: dict[str, dict[int, list[EntityState]]] = {side: defaultdict(lambda: [EntityState()]) for side in _SIDES}
    counted = parts <= Part.TRAIN
    longest_s = _longest_age_s(schema)
    for group in _simultaneous(at):
        for row in group:
            liked = seen["user"][user_rows[row]].history
            history[row, : len(liked)] = [items.place[one] for one in liked]
            for side, entity in (("user", user_rows[row]), ("item", item_rows[row])):
                live[side][row] = _counts(advance(rule, seen[side][entity], at[row]))
                past = snapshots[side][entity]
                # A user's rows after train are not counted, so the counts are as old as the last row that was.
                complete = counted[row] or side == "item"
                fresh[side][row] = _counts(advance(rule, past[-1], at[row]) if complete else past[-1])
                for draw in range(_AGED):
                    aged[side][draw, row] = _counts(_earlier(rule, past, at[row], draw, longest_s, rng))
        for row in group:
            event = Event(at[row], bool(clicked[row]), items.ids[item_rows[row]], times=times[row])
            for side, entity, happened in (
                ("user", user_rows[row], event),
                ("item", item_rows[row], event._replace(item_id=None)),
            ):
                seen[side][entity] = fold(rule, seen[side][entity], happened)
                if counted[row]:
                    past = snapshots[side][entity]
                    past.append(fold(rule, past[-1], happened))
    return Timeline(
        history,
        user_counts=Counts(*fresh["user"].T),
        item_counts=Counts(*fresh["item"].T),
        live_user_counts=Counts(*live["user"].T),
        live_item_counts=Counts(*live["item"].T),
        aged_user_counts=[Counts(*draw.T) for draw in aged["user"]],
        aged_item_counts=[Counts(*draw.T) for draw in aged["item"]],
        final_users=_last(snapshots["user"]),
        final_items=_last(snapshots["item"]),
        ends_at=float(at[counted].max()),
    )


def _longest_age_s(schema: FeatureSchema) -> float:
    state = schema.state("user")
    assert state is not None, "every fitted schema has the user's counts"
    return state.age_cap_s / 2


def _earlier(
    rule: StateRule, past: list[EntityState], at: float, draw: int, longest_s: float, rng: np.random.Generator
) -> EntityState:
    """One of the `past` states: for even draws as of a random earlier time, for odd ones after a random earlier event.

    The one is as stale as an old export, which knows little of those who come in bursts; the other keeps some of each.
    """
    if draw % 2:
        return past[rng.integers(len(past))]
    then = at - rng.uniform(0.0, longest_s)
    place = bisect_left(past, then, key=lambda state: state.as_of)
    return advance(rule, past[max(0, place - 1)], max(then, 0.0))


def _simultaneous(at: NDArray[np.float64]) -> Iterator[range]:
    """Runs of rows with equal times: none of them was known when the others happened."""
    starts = [0, *(np.flatnonzero(np.diff(at)) + 1).tolist(), len(at)]
    return (range(start, stop) for start, stop in zip(starts[:-1], starts[1:], strict=True))


def _counts(state: EntityState) -> tuple[float, float, float]:
    return state.impressions, state.clicks, state.as_of


def _last(snapshots: Mapping[int, list[EntityState]]) -> dict[int, EntityState]:
    return {int(entity): past[-1] for entity, past in snapshots.items()}
