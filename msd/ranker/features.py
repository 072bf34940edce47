"""A dataset as the ranker's tensors: the inputs of training, evaluation and export, built once.

Row features come from the core's columns (`native.columns`); the student's vectors are unchanged until the adaptors.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from msd.contract.rows import RowSide
from msd.contract.schema import FeatureSchema
from msd.dataset.aggregate import impressions_of
from msd.dataset.conversions import CONVERSION, Arrival, has_conversions
from msd.dataset.load import Dataset
from msd.dataset.split import Part, split_events
from msd.ranker.arrays import IN_MEMORY, Arrays, chunks
from msd.ranker.timeline import Entities, SideCounts, Timeline, encode_entities, walk_events
from msd.student.vectors import StudentVectors
from native.columns import Counts, dense, encode_side


@dataclass(frozen=True)
class SideFeatures:
    """One side of all rows.

    `categorical` [n + 1, C] by entity. By event: `dense` [E, D]; `live_dense` [E, D], which counts earlier events of
    all parts; `aged_dense` [R, E, D], with counts of an earlier time, drawn R times. `unknown_dense` [D]. `vectors`
    [n + 1, V] of the student, and `present` [n + 1]. Row n is that of an unknown ID.
    """

    entities: Entities
    rows: Tensor
    categorical: Tensor
    dense: Tensor
    live_dense: Tensor
    aged_dense: Tensor
    unknown_dense: Tensor
    vectors: Tensor
    present: Tensor


@dataclass(frozen=True)
class Features:
    """All events of a dataset: labels [E], impressions [E] that each stands for, parts [E], context tensors [E, …],
    history [E, L] as item rows (padding −1) with its outcomes [E, L, 4]; converted clicks [E], if the dataset has them,
    and if they have times, the share of an event's conversions that the log can know by its end, `arrived` [E];
    and the parts [E, 2] of the users' taste, once they are known (`batch.with_taste`). What has a row per event is in
    `arrays`. `adapted`: vectors [n + 1, D] in the schema's dimension of all users or items, by side (`Adaptors.adapt`).
    """

    schema: FeatureSchema
    parts: NDArray[np.int8]
    labels: Tensor
    impressions: Tensor
    user: SideFeatures
    item: SideFeatures
    context_categorical: Tensor
    context_dense: Tensor
    history: Tensor
    history_outcomes: Tensor
    knows_user: Tensor
    walked: Timeline | None = None
    conversions: Tensor | None = None
    arrived: Tensor | None = None
    adapted: Mapping[RowSide, Tensor] = field(default_factory=dict)
    taste: Tensor | None = None
    arrays: Arrays = IN_MEMORY

    @property
    def timeline(self) -> Timeline:
        """The walk that made them, which features that were read from a folder do not have."""
        assert self.walked is not None, "the features were built in this process"
        return self.walked

    def live(self) -> "Features":
        """Return the same events with counts that stay up to date through valid and test, as in a service with feedback
        (progressive evaluation). Window and train rows also count earlier valid and test rows of others."""
        user, item = (replace(side, dense=side.live_dense) for side in (self.user, self.item))
        return replace(self, user=user, item=item)

    def anonymous(self) -> "Features":
        """Return the same events of anonymous users: without ID, counts, vector and history."""
        rows = len(self.labels)
        unknown = self.user.unknown_dense.expand(rows, -1)
        user = replace(
            self.user,
            rows=self.user.rows.new_full((1,), self.user.entities.unknown).expand(rows),
            dense=unknown,
            live_dense=unknown,
        )
        return replace(
            self,
            user=user,
            history=self.history.new_full((1, 1), -1).expand_as(self.history),
            history_outcomes=self.history_outcomes.new_zeros((1, 1, 1)).expand_as(self.history_outcomes),
            knows_user=self.knows_user.new_zeros(1).expand(rows),
            taste=None if self.taste is None else self.taste.new_zeros((1, 1)).expand_as(self.taste),
        )

    def people(self, events: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return whose n events are [n]: users by number, and each anonymous impression as of a person of its own."""
        rows, unknown = self.user.rows.cpu().numpy()[events].astype(np.int64), self.user.entities.unknown
        return np.where(rows == unknown, unknown + 1 + events, rows)

    def of_part(self, *parts: Part) -> NDArray[np.int64]:
        """Return the events of the given parts, in time order."""
        return np.flatnonzero(np.isin(self.parts, parts))

    def outcomes(self, events: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return labels [n] of events, and the impressions [n] that each stands for."""
        labels, impressions = self.labels.cpu().numpy(), self.impressions.cpu().numpy()
        return labels[events].astype(np.float64), impressions[events].astype(np.float64)

    @cached_property
    def average(self) -> Tensor:
        """Mean impressions of an event."""
        return self.impressions.mean()

    def converted(self, events: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return whether each of n events was a click that converted [n]. The dataset must have conversions."""
        assert self.conversions is not None, "a model with conversions is of a dataset with conversions"
        return self.conversions.cpu().numpy()[events].astype(np.float64)

    def share_arrived(self, events: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return `arrived` of n events [n]; 1 if nothing tells."""
        if self.arrived is None:
            return np.ones(len(events))
        return self.arrived.cpu().numpy()[events].astype(np.float64)

    def loss_of(
        self, logits: Tensor, events: NDArray[np.int64], of: Literal["labels", "conversions"] = "labels"
    ) -> Tensor:
        """Return the mean logloss of logits [..., n] of events, weighted by impressions; the weight of an average event
        of the dataset is 1, whatever the batch."""
        chosen = torch.from_numpy(events)
        weights = (self.impressions[chosen] / self.average).expand_as(logits)
        labels = getattr(self, of)[chosen].expand_as(logits)
        return nn.functional.binary_cross_entropy_with_logits(logits, labels, weights)

    def to(self, device: torch.device) -> "Features":
        """Return a copy with its tensors on a device; models are trained on that device."""
        user, item = (replace(side, **_moved(side, device)) for side in (self.user, self.item))
        return replace(self, user=user, item=item, **_moved(self, device))


def _moved(held: SideFeatures | Features, device: torch.device) -> dict[str, Any]:
    values = {one.name: getattr(held, one.name) for one in fields(held)}
    return {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}


def build_features(
    dataset: Dataset,
    schema: FeatureSchema,
    vectors: StudentVectors,
    delay_s: float = 0.0,
    timeline: Timeline | None = None,
    arrays: Arrays = IN_MEMORY,
    closed: bool = False,
) -> Features:
    """Encode a dataset with a fitted schema, in new `arrays`. A user's vector is used only after the profile window it
    was made from.

    An event is known to later ones once more than `delay_s` have passed; if `closed`, valid and test events never are,
    so that histories end with train as counts do. `timeline`: that of another schema fitted to the same dataset, to
    walk the events only once.
    """
    events, shape = dataset.events, (dataset.events.height,)
    parts = split_events(events, dataset.config)
    users, items = (encode_entities(dataset, schema, side) for side in ("user", "item"))
    timeline = timeline or walk_events(dataset, schema, parts, users, items, delay_s, arrays, closed)
    knows_user = arrays.filled(shape, np.bool_, lambda part: parts[part] > Part.WINDOW, "knows_user")
    impressions = arrays.filled(shape, np.float32, lambda part: impressions_of(events[part]).to_numpy(), "impressions")
    categorical, numeric = _context(dataset, schema, arrays)
    vectors_of = (vectors.gather("users", users.ids), vectors.gather("items", items.ids))
    arrival = Arrival.of(events)
    return Features(
        schema=schema,
        parts=parts,
        labels=_floats(dataset, "label", "labels", arrays),
        impressions=torch.from_numpy(impressions),
        user=_side(dataset, schema, users, timeline.user, vectors_of[0], knows_user, arrays),
        item=_side(dataset, schema, items, timeline.item, vectors_of[1], np.broadcast_to(True, shape), arrays),
        context_categorical=torch.from_numpy(categorical),
        context_dense=torch.from_numpy(numeric),
        history=torch.from_numpy(timeline.history),
        history_outcomes=torch.from_numpy(timeline.outcomes),
        knows_user=torch.from_numpy(knows_user),
        walked=timeline,
        conversions=_floats(dataset, CONVERSION, "conversions", arrays) if has_conversions(events) else None,
        arrived=None if arrival is None else _arrived(dataset, arrival, arrays),
        arrays=arrays,
    )


def _floats(dataset: Dataset, column: str, name: str, arrays: Arrays) -> Tensor:
    values = dataset.events[column]
    return torch.from_numpy(arrays.filled((len(values),), np.float32, lambda part: values[part].to_numpy(), name))


def _arrived(dataset: Dataset, arrival: Arrival, arrays: Arrays) -> Tensor:
    at = dataset.events["at"]
    shares = arrays.filled(
        (len(at),), np.float32, lambda part: arrival.share(at[part].to_numpy().astype(np.float64)), "arrived"
    )
    return torch.from_numpy(shares)


def _context(dataset: Dataset, schema: FeatureSchema, arrays: Arrays) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the events' categorical and numeric context."""
    names, rows = (*schema.settable["context"], *schema.serving_constants), dataset.events.height
    categorical = arrays.zeros((rows, schema.categorical_width("context")), np.int32, "context_categorical")
    numeric = arrays.zeros((rows, schema.numeric_width("context")), np.float32, "context_dense")
    for part in chunks(rows):
        values = {name: dataset.events[name][part].to_list() for name in names}
        categorical[part], numeric[part] = encode_side(schema, "context", values, part.stop - part.start)
    return categorical, numeric


def _side(
    dataset: Dataset,
    schema: FeatureSchema,
    entities: Entities,
    counts: SideCounts,
    vectors: tuple[NDArray[np.float32], NDArray[np.bool_]],
    is_known: NDArray[np.bool_],
    arrays: Arrays,
) -> SideFeatures:
    """Return a side's features. `vectors` of all entities, and which are present; `is_known` [E]: by events that may
    know the vector."""
    side, (by_id, present) = entities.side, (vectors[0], np.append(vectors[1], False))
    of_all = arrays.zeros((len(by_id) + 1, by_id.shape[1]), np.float32, f"{side}.vectors")
    of_all[:-1] = by_id
    ids, times = dataset.events[f"{side}_id"], dataset.events["at"]
    rows = arrays.filled((len(ids),), np.int32, lambda part: entities.places(ids[part]), f"{side}.rows")
    nothing, latest = np.zeros(1), times[-1:].to_numpy().astype(np.float64)
    unknown = dense(schema, side, entities.numeric[-1:], Counts(nothing, nothing, nothing), nothing > 0, latest)

    def seen(name: str, *draws: Counts) -> NDArray[np.float32]:
        shape = (len(draws), len(rows), unknown.shape[1])
        # Of one draw only, the file has no axis of draws.
        whole = arrays.zeros(shape if len(draws) > 1 else shape[1:], np.float32, f"{side}.{name}")
        for place, draw in zip(whole.reshape(shape), draws, strict=True):
            for part in chunks(len(rows)):
                known, counted = present[rows[part]] & is_known[part], Counts(*(column[part] for column in draw))
                at = times[part].to_numpy().astype(np.float64)
                filled = dense(schema, side, entities.numeric[rows[part]], counted, known, at)
                # An unknown user's counts have no time, as those of a missing row.
                filled[rows[part] == entities.unknown] = unknown[0]
                place[part] = filled
        return whole

    return SideFeatures(
        entities=entities,
        rows=torch.from_numpy(rows),
        categorical=torch.from_numpy(entities.categorical),
        dense=torch.from_numpy(seen("dense", counts.fresh)),
        live_dense=torch.from_numpy(seen("live_dense", counts.live)),
        aged_dense=torch.from_numpy(seen("aged_dense", *counts.aged)),
        unknown_dense=torch.from_numpy(unknown[0]),
        vectors=torch.from_numpy(of_all),
        present=torch.from_numpy(present),
    )
