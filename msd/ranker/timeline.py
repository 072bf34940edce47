"""Users and items of a dataset, and the walk of all events in time order, which records for each row the history and
counts strictly before it.

Events are folded by the contract, so that training sees what a service would have known. Counts are aged by
`_advanced`, the contract's `advance` for many rows. Counts come only from window and train rows; a history has every
earlier impression. Events can become known only some time later, as a service's feedback does.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from msd.contract.assemble import Counts, encode_impressions
from msd.contract.encode import encode_side, encode_state
from msd.contract.rows import RowSide
from msd.contract.schema import OUTCOME_FEATURES, FeatureSchema
from msd.contract.state import EntityState, Event, StateRule, decay, fold
from msd.dataset.aggregate import impressions_of
from msd.dataset.load import Dataset
from msd.dataset.split import Part
from msd.ranker.arrays import IN_MEMORY, Arrays, chunks

_AGING_SEED = 20_240_612
_AGED = 4  # draws of earlier counts per row
_ROWS_AT_ONCE = 4_096  # whose histories' click rates are computed together


@dataclass(frozen=True)
class Entities:
    """All users or items as encoded columns: n IDs; categorical [n + 1, C] and numeric [n + 1, 2K]. Row n is that of an
    unknown ID."""

    side: RowSide
    ids: list[str]
    categorical: NDArray[np.int32]
    numeric: NDArray[np.float32]
    place: dict[str, int]

    @property
    def unknown(self) -> int:
        """Row of an unknown ID."""
        return len(self.categorical) - 1

    def places(self, ids: pl.Series) -> NDArray[np.int32]:
        """Return the row of each ID [len(ids)]; all must occur in the dataset."""
        return np.fromiter((self.place[id_] for id_ in ids), np.int32, len(ids))


def encode_entities(dataset: Dataset, schema: FeatureSchema, side: RowSide) -> Entities:
    """Encode every ID of the side's table, then every ID that only the events have."""
    name = f"{side}_id"
    table = dataset.users if side == "user" else dataset.items
    known = table[name].to_list()
    only_events = sorted(set(dataset.events[name].unique()) - set(known))
    ids = known + only_events
    pad: list[None] = [None] * (len(only_events) + 1)
    columns = {field: [*table[field].to_list(), *pad] for field in schema.settable[side]}
    columns[name] = [*ids, None]
    categorical, numeric = encode_side(schema, side, columns, len(ids) + 1)
    return Entities(side, ids, categorical, numeric, {id_: row for row, id_ in enumerate(ids)})


class SideCounts(NamedTuple):
    """Counts of the users or of the items of E events, as [E] columns: `fresh` of window and train rows, `live` of
    earlier events of all parts, as in a service with feedback. `aged`: as `fresh`, of an earlier time, drawn several
    times, so that a model trained on all of them serves well with counts of any age. `final`: states after all window
    and train rows, by row of the user or item.
    """

    fresh: Counts
    live: Counts
    aged: list[Counts]
    final: dict[int, EntityState]


@dataclass(frozen=True)
class Timeline:
    """By event: history [E, L] as item rows (oldest first, padding −1) with `schema.OUTCOME_FEATURES` [E, L, 4], and
    counts of user and item. Click rates of a history's items are of window and train rows, which end at `ends_at`."""

    history: NDArray[np.int32]
    outcomes: NDArray[np.float32]
    user: SideCounts
    item: SideCounts
    ends_at: float


def state_rule(schema: FeatureSchema) -> StateRule:
    """Return the schema's half-life and history length of states."""
    state = schema.state("user")
    assert state is not None, "every fitted schema has the user's counts"
    return StateRule(state.half_life_s, schema.history.length)


def walk_events(
    dataset: Dataset,
    schema: FeatureSchema,
    parts: NDArray[np.int8],
    users: Entities,
    items: Entities,
    delay_s: float = 0.0,
    arrays: Arrays = IN_MEMORY,
) -> Timeline:
    """Return the timeline of a dataset's events, which must be sorted by time, in new `arrays`. An event is known to
    later ones once more than `delay_s` have passed."""
    events = dataset.events
    at = events["at"].to_numpy().astype(np.float64)
    clicked, times = events["label"].to_numpy().astype(bool), impressions_of(events).to_numpy()
    user_rows, item_rows = users.places(events["user_id"]), items.places(events["item_id"])
    rule = state_rule(schema)
    counted = parts <= Part.TRAIN
    of_user, of_item = (_Side(rule, rows, arrays) for rows in (user_rows, item_rows))
    history = arrays.zeros((len(at), rule.history_length), np.int32, "history")
    history[:] = -1
    outcomes = arrays.zeros((*history.shape, len(OUTCOME_FEATURES)), np.float32, "history_outcomes")

    def fold_row(row: int) -> None:
        event = Event(float(at[row]), bool(clicked[row]), items.ids[item_rows[row]], times=float(times[row]))
        of_user.fold(row, event, bool(counted[row]))
        of_item.fold(row, event._replace(item_id=None), bool(counted[row]))

    known = 0
    for row in range(len(at)):
        while at[known] < at[row] - delay_s:
            fold_row(known)
            known += 1
        of_item.note(row)
        if impressions := of_user.note(row).history:
            when, ids, shown, clicks = zip(*impressions, strict=True)
            history[row, : len(ids)] = [items.place[item_id] for item_id in ids]
            age_s = at[row] - np.array(when)
            outcomes[row, : len(ids), :3] = encode_impressions(np.array(shown), np.array(clicks), age_s)
    for row in range(known, len(at)):
        fold_row(row)
    user, item = (side.by_entity(counted) for side in (of_user, of_item))
    ends_at = float(at[counted].max())
    state = schema.state("user")
    assert state is not None, "every fitted schema has the user's counts"
    if item_state := schema.state("item"):
        then = np.minimum(at - delay_s, np.nextafter(ends_at, np.inf))
        for start in range(0, len(at), _ROWS_AT_ONCE):
            rows, places = np.nonzero(history[start : start + _ROWS_AT_ONCE] >= 0)
            rows += start
            counts = item.at(history[rows, places], then[rows])
            outcomes[rows, places, 3] = encode_state(item_state, *counts, then[rows])[:, 0]
    rng, longest_s = np.random.default_rng(_AGING_SEED), state.age_cap_s / 2
    return Timeline(
        history,
        outcomes,
        # A user's rows after train are not counted, so the counts are as old as the last counted row.
        user.counts(
            lambda part: Counts(*np.where(counted[part], user.now(at, part), user.last(part))), at, longest_s, rng
        ),
        item.counts(lambda part: item.now(at, part), at, longest_s, rng),
        ends_at,
    )


class _Side:
    """States of users or of items during the walk. `live` [E, 3]: before each event, from all events; `after` [E, 3]:
    after it, from counted events; `earlier` [E]: number of its entity's counted events before it."""

    def __init__(self, rule: StateRule, entities: NDArray[np.int32], arrays: Arrays) -> None:
        self.rule = rule
        self.entities = entities
        self.arrays = arrays
        self._seen: dict[int, EntityState] = defaultdict(EntityState)
        self.counted: dict[int, EntityState] = defaultdict(EntityState)
        self._number: dict[int, int] = defaultdict(int)
        self.live, self.after = (arrays.zeros((len(entities), 3)) for _ in range(2))
        self.earlier = arrays.zeros((len(entities),), np.int64)

    def note(self, row: int) -> EntityState:
        """Record the state before an event."""
        entity = int(self.entities[row])
        state = self._seen[entity]
        self.live[row] = state.impressions, state.clicks, state.as_of
        self.earlier[row] = self._number[entity]
        return state

    def fold(self, row: int, event: Event, is_counted: bool) -> None:
        """Fold an event, after all events of the same time are recorded."""
        entity = int(self.entities[row])
        before = self._seen[entity]
        after = self._seen[entity] = fold(self.rule, before, event)
        if is_counted:
            known = self.counted[entity]
            # Until the end of train both states are equal.
            state = self.counted[entity] = after if known is before else fold(self.rule, known, event)
            self.after[row] = state.impressions, state.clicks, state.as_of
            self._number[entity] += 1

    def by_entity(self, counted: NDArray[np.bool_]) -> "_Counted":
        """Return the counted states, after all events are walked."""
        rows = np.flatnonzero(counted)
        rows = rows[np.argsort(self.entities[rows], kind="stable")]
        many = np.bincount(self.entities[rows], minlength=int(self.entities.max()) + 1)
        # Each entity's states begin with the empty state.
        bounds = np.concatenate([[0], np.cumsum(many + 1)])
        states = self.arrays.zeros((len(rows) + len(many), 3))
        for part in chunks(len(rows)):
            chosen = rows[part]
            states[np.arange(part.start, part.stop) + self.entities[chosen] + 1] = self.after[chosen]
        keys = self.arrays.zeros((len(states),), np.complex128)
        keys.real, keys.imag = np.repeat(np.arange(len(many)), many + 1), states[:, 2]
        return _Counted(self, states, keys, bounds)


class _Counted(NamedTuple):
    """Counted states [S, 3] of a side, sorted by entity, then time; `keys` [S] hold both as complex numbers, as numpy
    sorts them. `bounds` [n + 1] of each entity's states, an empty one first."""

    side: _Side
    states: NDArray[np.float64]
    keys: NDArray[np.complex128]
    bounds: NDArray[np.int64]

    def counts(
        self, fresh: Callable[[slice], Counts], at: NDArray[np.float64], longest_s: float, rng: np.random.Generator
    ) -> SideCounts:
        """Return all counts of the side, `fresh` by parts of the rows; `longest_s`: how much earlier the aged ones may
        be."""

        def live(part: slice) -> Counts:
            return _advanced(self.side.rule, self.side.live[part], at[part])

        def aged_by_time(part: slice) -> Counts:
            """Counts as stale as an old export, which knows little of entities with bursts of events."""
            then = at[part] - rng.uniform(0.0, longest_s, part.stop - part.start)
            return self.at(self.side.entities[part], then)

        def aged_by_event(part: slice) -> Counts:
            """Counts after a random earlier event, some of every entity."""
            earlier = rng.integers(0, self.side.earlier[part] + 1)
            return Counts(*self.states[self.bounds[self.side.entities[part]] + earlier].T)

        aged = [self._filled(draw) for draw in _AGED // 2 * (aged_by_time, aged_by_event)]
        return SideCounts(self._filled(fresh), self._filled(live), aged, dict(self.side.counted))

    def last(self, part: slice) -> Counts:
        """Return counts as of the last counted event."""
        return Counts(*self._before(part).T)

    def now(self, at: NDArray[np.float64], part: slice) -> Counts:
        """Return the same counts, advanced to each event's time."""
        return _advanced(self.side.rule, self._before(part), at[part])

    def at(self, entities: NDArray[np.int64 | np.int32], then: NDArray[np.float64]) -> Counts:
        """Return the counts of n entities from before the times `then` [n], advanced to them."""
        places = np.searchsorted(self.keys, entities + 1j * then) - 1
        states = self.states[np.maximum(places, self.bounds[entities])]
        return _advanced(self.side.rule, states, np.maximum(then, 0.0))

    def _before(self, part: slice) -> NDArray[np.float64]:
        """Return the counted states [n, 3] before events."""
        states: NDArray[np.float64] = self.states[self.bounds[self.side.entities[part]] + self.side.earlier[part]]
        return states

    def _filled(self, of: Callable[[slice], Counts]) -> Counts:
        """Return the counts of all events, from those of parts of the rows."""
        found = self.side.arrays.zeros((3, len(self.side.entities)))
        for part in chunks(found.shape[1]):
            found[:, part] = of(part)
        return Counts(*found)


def _advanced(rule: StateRule, states: NDArray[np.float64], at: NDArray[np.float64]) -> Counts:
    """Advance states [E, 3] to times [E], as `advance` does."""
    as_of = np.maximum(states[:, 2], at)
    fade = decay(as_of - states[:, 2], rule.half_life_s)
    return Counts(states[:, 0] * fade, states[:, 1] * fade, as_of)
