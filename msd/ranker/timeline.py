"""Users and items of a dataset, and the walk of all events in time order, which records for each row the history and
counts strictly before it.

Events are folded by the contract, so that training sees what a service would have known. Counts are aged by
`_advanced`, the contract's `advance` for many rows. Counts come only from window and train rows; a history has every
earlier impression. Events can become known only some time later, as a service's feedback does.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from msd.contract.assemble import Counts, encode_impressions
from msd.contract.encode import encode_side, encode_state
from msd.contract.request import ANONYMOUS_PREFIX
from msd.contract.rows import RowSide
from msd.contract.schema import OUTCOME_FEATURES, FeatureSchema
from msd.contract.state import EntityState, Event, Impression, StateRule, decay, fold, state_rules
from msd.dataset.aggregate import impressions_of
from msd.dataset.column import is_anonymous
from msd.dataset.load import Dataset
from msd.dataset.split import Part
from msd.ranker.arrays import IN_MEMORY, Arrays, chunks

_AGING_SEED = 20_240_612
_AGED = 4  # draws of earlier counts per row
_ROWS_AT_ONCE = 1_024  # whose histories are encoded together
_EMPTY = EntityState()


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
        """Return the row of each ID [len(ids)], of anonymous users that of an unknown one; all others must occur in the
        dataset."""
        rows = (self.unknown if id_[:1] == ANONYMOUS_PREFIX else self.place[id_] for id_ in ids.to_list())
        return np.fromiter(rows, np.int32, len(ids))


def encode_entities(dataset: Dataset, schema: FeatureSchema, side: RowSide) -> Entities:
    """Encode every ID of the side's table, then every ID that only the events have; anonymous users have none."""
    name = f"{side}_id"
    table = dataset.users if side == "user" else dataset.items
    known = table[name].to_list()
    in_events = dataset.events.lazy().select(name).filter(~is_anonymous(name)).unique().collect(engine="streaming")
    only_events = sorted(set(in_events.to_series()) - set(known))
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


def walk_events(
    dataset: Dataset,
    schema: FeatureSchema,
    parts: NDArray[np.int8],
    users: Entities,
    items: Entities,
    delay_s: float = 0.0,
    arrays: Arrays = IN_MEMORY,
    closed: bool = False,
) -> Timeline:
    """Return the timeline of a dataset's events, which must be sorted by time, in new `arrays`. An event is known to
    later ones once more than `delay_s` have passed; if `closed`, valid and test events never are."""
    events, rule = dataset.events, state_rules(schema)["user"]
    counted = parts <= Part.TRAIN
    at = arrays.filled((events.height,), np.float64, lambda part: events["at"][part].to_numpy())
    of_user, of_item = (_Side(rule, side, events[f"{side.side}_id"], at, counted, arrays) for side in (users, items))
    history = arrays.zeros((len(at), rule.history_length), np.int32, "history")
    outcomes = arrays.zeros((*history.shape, len(OUTCOME_FEATURES)), np.float32, "history_outcomes")
    to_come = _folding(events, counted, of_user, of_item, closed)
    next_at = next(to_come)
    for part in chunks(len(at), _ROWS_AT_ONCE):
        known = []
        for user, item, now in zip(
            *(held[part].tolist() for held in (of_user.entities, of_item.entities, at)), strict=True
        ):
            while next_at < now - delay_s:
                next_at = next(to_come)
            of_item.note(item)
            known.append(of_user.note(user).history)
        of_user.write(part)
        of_item.write(part)
        history[part], outcomes[part, :, :3] = _encode_histories(known, at[part], items, rule.history_length)
    deque(to_come, maxlen=0)
    for side in (of_user, of_item):
        side.write(slice(0))
    ends_at = max(float(at[part].max(where=counted[part], initial=0.0)) for part in chunks(len(at)))
    state = schema.state("user")
    assert state is not None, "every fitted schema has the user's counts"
    if item_state := schema.state("item"):
        for part in chunks(len(at), _ROWS_AT_ONCE):
            places, slots = np.nonzero(history[part] >= 0)
            then = np.minimum(at[part] - delay_s, np.nextafter(ends_at, np.inf))[places]
            counts = of_item.at(history[part][places, slots], then)
            outcomes[part][places, slots, 3] = encode_state(item_state, *counts, then)[:, 0]
    rng, longest_s = np.random.default_rng(_AGING_SEED), state.age_cap_s / 2
    return Timeline(
        history,
        outcomes,
        # A user's rows after train are not counted, so the counts are as old as the last counted row.
        of_user.counts(counted, longest_s, rng),
        of_item.counts(np.broadcast_to(True, at.shape), longest_s, rng),
        ends_at,
    )


def _folding(
    events: pl.DataFrame, counted: NDArray[np.bool_], user: "_Side", item: "_Side", closed: bool
) -> Iterator[float]:
    """Yield the time of each event; it is folded, and so known, when the next time is asked for. If `closed`, events
    that are not counted are never folded."""
    for part in chunks(events.height, _ROWS_AT_ONCE):
        block = events[part]
        told = (block["at"].cast(pl.Float64), block["label"].cast(pl.Boolean), impressions_of(block), block["item_id"])
        rows = (user.entities[part], item.entities[part], counted[part])
        for of_user, of_item, is_counted, at, clicked, times, item_id in zip(
            *(column.tolist() for column in rows), *(column.to_list() for column in told), strict=True
        ):
            yield at
            if closed and not is_counted:
                continue
            user.fold(of_user, Event(at, clicked, item_id, times=times), is_counted)
            item.fold(of_item, Event(at, clicked, times=times), is_counted)


def _encode_histories(
    histories: Sequence[tuple[Impression, ...]], at: NDArray[np.float64], items: Entities, length: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the items [n, length] of n histories, and the first three of their outcomes, at the times `at` [n]."""
    lengths = np.array([len(history) for history in histories])
    held = np.arange(length) < lengths[:, None]
    rows, outcomes = np.full(held.shape, -1, np.int32), np.zeros((*held.shape, 3), np.float32)
    if held.any():
        # Not by `zip(*…)`, which takes four times as long for 50,000.
        chained = list(chain.from_iterable(histories))
        rows[held] = [items.place[impression.item_id] for impression in chained]
        age_s = np.repeat(at, lengths) - np.array([impression.at for impression in chained])
        shown = np.array([impression.shown for impression in chained])
        clicked = np.array([impression.clicked for impression in chained])
        outcomes[held] = encode_impressions(shown, clicked, age_s)
    return rows, outcomes


class _Side:
    """States of users or of items, those of each event in `entities` [E]; an unknown one has none.
    `live` [3, E]: counts at each event, of all
    before it.

    `states` [S, 3] are those of counted events only, sorted by entity, then time; `keys` [S] hold both as complex
    numbers, as numpy sorts them. Each entity's begin with an empty one, at `starts` [n]; `before` [E]: the place of the
    state before each event.
    """

    def __init__(
        self,
        rule: StateRule,
        side: Entities,
        ids: pl.Series,
        times: NDArray[np.float64],
        counted: NDArray[np.bool_],
        arrays: Arrays,
    ) -> None:
        self.rule, self.times, self.arrays, self.unknown = rule, times, arrays, side.unknown
        size = side.unknown + 1
        self.entities = entities = arrays.filled(times.shape, np.int32, lambda part: side.places(ids[part]))
        self.final: dict[int, EntityState] = {}
        self._seen: dict[int, EntityState] = {}
        many = sum(np.bincount(entities[part][counted[part]], minlength=size) for part in chunks(len(entities)))
        many = np.append(np.asarray(many)[:-1], 0)
        self.starts = np.concatenate([[0], np.cumsum(many + 1)])[:-1]
        self._places = self.starts.tolist()
        self.live, self.before = arrays.zeros((3, len(entities))), arrays.zeros((len(entities),), np.int64)
        self.states = arrays.zeros((size + int(np.sum(many)), 3))
        self.keys = arrays.zeros((len(self.states),), np.complex128)
        self.keys[self.starts] = np.arange(size)
        self._noted: list[tuple[int, float, float, float]] = []
        self._folded: list[tuple[int, int, float, float, float]] = []

    def note(self, entity: int) -> EntityState:
        """Note the state before the next event, and return it."""
        state = self._seen.get(entity, _EMPTY)
        self._noted.append((self._places[entity], state.impressions, state.clicks, state.as_of))
        return state

    def fold(self, entity: int, event: Event, is_counted: bool) -> None:
        """Fold an event, after all events of the same time are noted."""
        if entity == self.unknown:
            return
        before = self._seen.get(entity, _EMPTY)
        after = self._seen[entity] = fold(self.rule, before, event)
        if is_counted:
            known = self.final.get(entity, _EMPTY)
            # Until the end of train both states are the same.
            state = self.final[entity] = after if known is before else fold(self.rule, known, event)
            self._places[entity] += 1
            self._folded.append((self._places[entity], entity, state.impressions, state.clicks, state.as_of))

    def write(self, part: slice) -> None:
        """Write what was noted of a part of the events, and what was folded since."""
        if self._noted:
            self.before[part], *columns = (np.array(column) for column in zip(*self._noted, strict=True))
            self.live[:, part] = _advanced(self.rule, np.stack(columns, 1), self.times[part])
        if self._folded:
            places, entities, *columns = (np.array(column) for column in zip(*self._folded, strict=True))
            self.states[places], self.keys[places] = np.stack(columns, 1), entities + 1j * columns[2]
        self._noted, self._folded = [], []

    def counts(self, current: NDArray[np.bool_], longest_s: float, rng: np.random.Generator) -> SideCounts:
        """Return all counts of the side. Fresh ones are of the event's time where it is `current` [E], else of the last
        counted event. `longest_s`: how much earlier the aged ones may be."""

        def fresh(part: slice) -> Counts:
            until = np.where(current[part], self.times[part], -np.inf)
            return _advanced(self.rule, self.states[self.before[part]], until)

        def aged_by_time(part: slice) -> Counts:
            """Counts as stale as an old export, which knows little of entities with bursts of events."""
            then = self.times[part] - rng.uniform(0.0, longest_s, part.stop - part.start)
            return self.at(self.entities[part], then)

        def aged_by_event(part: slice) -> Counts:
            """Counts after a random earlier event, some of every entity."""
            starts = self.starts[self.entities[part]]
            return Counts(*self.states[starts + rng.integers(0, self.before[part] - starts + 1)].T)

        aged = [self._filled(draw) for draw in _AGED // 2 * (aged_by_time, aged_by_event)]
        return SideCounts(self._filled(fresh), Counts(*self.live), aged, self.final)

    def at(self, entities: NDArray[np.int32], then: NDArray[np.float64]) -> Counts:
        """Return the counts of n entities from before the times `then` [n], advanced to them."""
        places = np.searchsorted(self.keys, entities + 1j * then) - 1
        states = self.states[np.maximum(places, self.starts[entities])]
        return _advanced(self.rule, states, np.maximum(then, 0.0))

    def _filled(self, of: Callable[[slice], Counts]) -> Counts:
        """Return the counts of all events, from those of parts of the rows."""
        found = self.arrays.zeros((3, len(self.entities)))
        for part in chunks(found.shape[1]):
            found[:, part] = of(part)
        return Counts(*found)


def _advanced(rule: StateRule, states: NDArray[np.float64], at: NDArray[np.float64]) -> Counts:
    """Advance states [E, 3] to times [E], as `advance` does."""
    as_of = np.maximum(states[:, 2], at)
    fade = decay(as_of - states[:, 2], rule.half_life_s)
    return Counts(states[:, 0] * fade, states[:, 1] * fade, as_of)
