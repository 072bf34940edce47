"""Users and items of a dataset, and the walk of all events in time order, which records for each row the history and
counts strictly before it.

The native core folds the events (`native/core/fold.hpp`), so that training sees what a service would have known. Counts
are aged by `_advanced`. Counts come only from window and train rows; a history
has every earlier impression. Events can become known only some time later, as a service's feedback does.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

import native
from msd.contract.errors import MsdError
from msd.contract.request import ANONYMOUS_PREFIX
from msd.contract.rows import RowSide
from msd.contract.schema import OUTCOME_FEATURES, FeatureSchema
from msd.contract.state import EntityState, Impression, StateRule, decay, state_rules
from msd.dataset.aggregate import impressions_of
from msd.dataset.column import is_anonymous
from msd.dataset.load import Dataset
from msd.dataset.split import Part
from msd.ranker.arrays import IN_MEMORY, Arrays, chunks
from native.columns import Counts, encode_counts, encode_side

_AGING_SEED = 20_240_612
_AGED = 4  # draws of earlier counts per row
_ROWS_AT_ONCE = 1_024  # whose histories' click rates are encoded together


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
        distinct = ids.unique()
        rows = [self.unknown if id_[:1] == ANONYMOUS_PREFIX else self.place[id_] for id_ in distinct.to_list()]
        return ids.replace_strict(distinct, rows, return_dtype=pl.Int32).to_numpy()


def entity_ids(dataset: Dataset, side: RowSide) -> list[str]:
    """Return every ID of the side's table, then every ID that only the events have; anonymous users have none."""
    name, table = f"{side}_id", dataset.users if side == "user" else dataset.items
    known = table[name].to_list()
    in_events = dataset.events.lazy().select(name).filter(~is_anonymous(name)).unique().collect(engine="streaming")
    return known + sorted(set(in_events.to_series()) - set(known))


def encode_entities(dataset: Dataset, schema: FeatureSchema, side: RowSide) -> Entities:
    """Encode all IDs of a side."""
    name, ids = f"{side}_id", entity_ids(dataset, side)
    table = dataset.users if side == "user" else dataset.items
    pad: list[None] = [None] * (len(ids) - table.height + 1)
    columns = {field: [*table[field].to_list(), *pad] for field in schema.settable[side]}
    columns[name] = [*ids, None]
    categorical, numeric = encode_side(schema, side, columns, len(ids) + 1)
    return Entities(side, ids, categorical, numeric, {id_: row for row, id_ in enumerate(ids)})


class FinalStates(Mapping[int, EntityState]):
    """States after all window and train rows, by row of the user or item, of those that have such a row."""

    def __init__(self, walk: "native.core.EventWalk", item_ids: list[str]) -> None:
        self._walk, self._item_ids = walk, item_ids

    def __getitem__(self, row: int) -> EntityState:
        if (found := self._walk.final_state(row)) is None:
            raise KeyError(row)
        impressions, clicks, as_of, history = found
        seen = tuple(Impression(at, self._item_ids[item], shown, clicked) for at, item, shown, clicked in history)
        return EntityState(impressions, clicks, as_of, seen)

    def __iter__(self) -> Iterator[int]:
        return (row for row in range(len(self._walk)) if self._walk.final_state(row) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class SideCounts(NamedTuple):
    """Counts of the users or of the items of E events, as [E] columns: `fresh` of window and train rows, `live` of
    earlier events of all parts, as in a service with feedback. `aged`: as `fresh`, of an earlier time, drawn several
    times, so that a model trained on all of them serves well with counts of any age.
    """

    fresh: Counts
    live: Counts
    aged: list[Counts]
    final: FinalStates


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
    later ones once more than `delay_s` have passed; if `closed`, valid and test events never are. Raises MsdError
    without the native core."""
    events, rule = dataset.events, state_rules(schema)["user"]
    counted, shape = parts <= Part.TRAIN, (events.height,)
    at = arrays.filled(shape, np.float64, lambda part: events["at"][part].to_numpy())
    clicked = arrays.filled(shape, np.bool_, lambda part: events["label"][part].cast(pl.Boolean).to_numpy())
    times = arrays.filled(shape, np.float64, lambda part: impressions_of(events[part]).to_numpy())
    of_user, of_item = (_Side(rule, side, events[f"{side.side}_id"], at, counted, arrays) for side in (users, items))
    history = arrays.zeros((len(at), rule.history_length), np.int32, "history")
    outcomes = arrays.zeros((*history.shape, len(OUTCOME_FEATURES)), np.float32, "history_outcomes")
    for part in chunks(len(at)):
        history[part] = -1
    told = {"at": at, "times": times, "clicked": clicked, "counted": counted, "delay_s": delay_s, "closed": closed}
    told |= {"items": of_item.entities, "ranks": _ranks(items.ids)}
    kept = {"history_length": rule.history_length, "history": history, "outcomes": outcomes}
    nothing = {"history_length": 0, "history": np.empty(0, np.int32), "outcomes": np.empty(0, np.float32)}
    with ThreadPoolExecutor(max_workers=2) as pool:
        for walk in [pool.submit(side.walk, told | own) for side, own in ((of_user, kept), (of_item, nothing))]:
            walk.result()
    ends_at = max(float(at[part].max(where=counted[part], initial=0.0)) for part in chunks(len(at)))
    state = schema.state("user")
    assert state is not None, "every fitted schema has the user's counts"
    if item_state := schema.state("item"):
        for part in chunks(len(at), _ROWS_AT_ONCE):
            places, slots = np.nonzero(history[part] >= 0)
            then = np.minimum(at[part] - delay_s, np.nextafter(ends_at, np.inf))[places]
            counts = of_item.at(history[part][places, slots], then)
            outcomes[part][places, slots, 3] = encode_counts(item_state, counts, then)[:, 0]
    rng, longest_s = np.random.default_rng(_AGING_SEED), state.age_cap_s / 2
    return Timeline(
        history,
        outcomes,
        # A user's rows after train are not counted, so the counts are as old as the last counted row.
        of_user.counts(counted, longest_s, items.ids, rng),
        of_item.counts(np.broadcast_to(True, at.shape), longest_s, items.ids, rng),
        ends_at,
    )


def _ranks(ids: list[str]) -> NDArray[np.int32]:
    """Return the place of each ID [n] in their order."""
    ranks = np.empty(len(ids), np.int32)
    ranks[pl.Series(ids, dtype=pl.String).arg_sort().to_numpy()] = np.arange(len(ids), dtype=np.int32)
    return ranks


class _Side:
    """States of users or of items, those of each event in `entities` [E]; an unknown one has none.

    `live` [3, E]: counts at each event, of all before it. `states` [S, 3] are those of counted events only, sorted by
    entity, then time. Each entity's begin with an empty one, at `starts` [n]; `before` [E]: the place of the state
    before each event.
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
        many = sum(np.bincount(entities[part][counted[part]], minlength=size) for part in chunks(len(entities)))
        many = np.append(np.asarray(many)[:-1], 0)
        self.starts = np.concatenate([[0], np.cumsum(many + 1)])[:-1]
        self.live, self.before = arrays.zeros((3, len(entities))), arrays.zeros((len(entities),), np.int64)
        self.states = arrays.zeros((size + int(np.sum(many)), 3))

    def walk(self, told: dict[str, Any]) -> None:
        """Let the core walk the events and write what was known before each. Raises MsdError without the core."""
        if native.core is None:
            raise MsdError(f"features are made with the native core: {native.REASON}")
        written = {"live": self.live, "before": self.before, "states": self.states}
        side = {"entities": self.entities, "starts": self.starts}
        events: dict[str, Any] = {**told, "half_life_s": self.rule.half_life_s, **side, **written}
        self.walked = native.core.walk_events(**events)
        for part in chunks(len(self.times)):
            self.live[:, part] = _advanced(self.rule, self.live[:, part].T, self.times[part])

    def counts(
        self, current: NDArray[np.bool_], longest_s: float, item_ids: list[str], rng: np.random.Generator
    ) -> SideCounts:
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
        final = FinalStates(self.walked, item_ids)
        return SideCounts(self._filled(fresh), Counts(*self.live), aged, final)

    def at(self, entities: NDArray[np.int32], then: NDArray[np.float64]) -> Counts:
        """Return the counts of n entities from before the times `then` [n], advanced to them."""
        places = np.empty(len(entities), np.int64)
        self.walked.places_before(np.ascontiguousarray(entities), then, places)
        return _advanced(self.rule, self.states[places], np.maximum(then, 0.0))

    def _filled(self, of: Callable[[slice], Counts]) -> Counts:
        """Return the counts of all events, from those of parts of the rows."""
        found = self.arrays.zeros((3, len(self.entities)))
        for part in chunks(found.shape[1]):
            found[:, part] = of(part)
        return Counts(*found)


def _advanced(rule: StateRule, states: NDArray[np.float64], at: NDArray[np.float64]) -> Counts:
    """Return states [E, 3] as they are at times [E], earlier ones as they are."""
    as_of = np.maximum(states[:, 2], at)
    fade = decay(as_of - states[:, 2], rule.half_life_s)
    return Counts(states[:, 0] * fade, states[:, 1] * fade, as_of)
