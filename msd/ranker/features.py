"""A dataset as the ranker's tensors: the inputs of training, evaluation and export, built once.

Row features come from the contract's `encode` and `dense`; the student's vectors are unchanged until the adaptors.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from msd.contract.assemble import Counts, dense
from msd.contract.encode import encode_side
from msd.contract.schema import FeatureSchema
from msd.dataset.aggregate import impressions_of
from msd.dataset.conversions import CONVERSION, has_conversions
from msd.dataset.load import Dataset
from msd.dataset.split import Part, split_events
from msd.ranker.timeline import Entities, SideCounts, Timeline, encode_entities, walk_events
from msd.student.vectors import StudentVectors


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

    def to(self, device: torch.device) -> "SideFeatures":
        """Return a copy with its tensors on a device."""
        return replace(self, **_moved(self, device))


@dataclass(frozen=True)
class Features:
    """All events of a dataset: labels [E], impressions [E] that each stands for, parts [E], context tensors [E, …],
    history [E, L] as item rows (padding −1) with its outcomes [E, L, 4]; converted clicks [E], if the dataset has them;
    and the parts [E, 2] of the users' taste, once they are known (`batch.with_taste`)."""

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
    timeline: Timeline
    conversions: Tensor | None = None
    taste: Tensor | None = None

    def live(self) -> "Features":
        """Return the same events with counts that stay up to date through valid and test, as in a service with feedback
        (progressive evaluation). Window and train rows also count earlier valid and test rows of others."""
        user, item = (replace(side, dense=side.live_dense) for side in (self.user, self.item))
        return replace(self, user=user, item=item)

    def of_part(self, *parts: Part) -> NDArray[np.int64]:
        """Return the events of the given parts, in time order."""
        return np.flatnonzero(np.isin(self.parts, parts))

    def outcomes(self, events: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return labels [n] of events, and the impressions [n] that each stands for."""
        labels, impressions = self.labels.cpu().numpy(), self.impressions.cpu().numpy()
        return labels[events].astype(np.float64), impressions[events].astype(np.float64)

    def converted(self, events: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return whether each of n events was a click that converted [n]. The dataset must have conversions."""
        assert self.conversions is not None, "a model with conversions is of a dataset with conversions"
        return self.conversions.cpu().numpy()[events].astype(np.float64)

    def loss_of(
        self, logits: Tensor, events: NDArray[np.int64], of: Literal["labels", "conversions"] = "labels"
    ) -> Tensor:
        """Return the mean logloss of logits [..., n] of events, weighted by impressions; the weight of an average event
        of the dataset is 1, whatever the batch."""
        chosen = torch.from_numpy(events)
        weights = (self.impressions[chosen] / self.impressions.mean()).expand_as(logits)
        labels = getattr(self, of)[chosen].expand_as(logits)
        return nn.functional.binary_cross_entropy_with_logits(logits, labels, weights)

    def to(self, device: torch.device) -> "Features":
        """Return a copy with its tensors on a device; models are trained on that device."""
        return replace(self, user=self.user.to(device), item=self.item.to(device), **_moved(self, device))


def _moved(held: object, device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) for name, value in vars(held).items() if isinstance(value, Tensor)}


def build_features(
    dataset: Dataset,
    schema: FeatureSchema,
    vectors: StudentVectors,
    delay_s: float = 0.0,
    timeline: Timeline | None = None,
) -> Features:
    """Encode a dataset with a fitted schema. A user's vector is used only after the profile window it was made from.

    An event is known to later ones once more than `delay_s` have passed. `timeline`: that of another schema fitted to
    the same dataset, to walk the events only once.
    """
    parts = split_events(dataset.events, dataset.config)
    users, items = (encode_entities(dataset, schema, side) for side in ("user", "item"))
    timeline = timeline or walk_events(dataset, schema, parts, users, items, delay_s)
    knows_user = parts > Part.WINDOW
    context = {
        name: dataset.events[name].to_list() for name in (*schema.settable["context"], *schema.serving_constants)
    }
    categorical, numeric = encode_side(schema, "context", context, len(parts))
    return Features(
        schema=schema,
        parts=parts,
        labels=_floats(dataset, "label"),
        impressions=torch.from_numpy(impressions_of(dataset.events).to_numpy().astype(np.float32)),
        user=_side(dataset, schema, users, timeline.user, vectors.gather("users", users.ids), knows_user),
        item=_side(dataset, schema, items, timeline.item, vectors.gather("items", items.ids), np.ones_like(knows_user)),
        context_categorical=torch.from_numpy(categorical),
        context_dense=torch.from_numpy(numeric),
        history=torch.from_numpy(timeline.history),
        history_outcomes=torch.from_numpy(timeline.outcomes),
        knows_user=torch.from_numpy(knows_user),
        timeline=timeline,
        conversions=_floats(dataset, CONVERSION) if has_conversions(dataset.events) else None,
    )


def _floats(dataset: Dataset, column: str) -> Tensor:
    return torch.from_numpy(dataset.events[column].to_numpy().astype(np.float32))


def _side(
    dataset: Dataset,
    schema: FeatureSchema,
    entities: Entities,
    counts: SideCounts,
    vectors: tuple[NDArray[np.float32], NDArray[np.bool_]],
    is_known: NDArray[np.bool_],
) -> SideFeatures:
    """Return a side's features. `vectors` of all entities, and which are present; `is_known` [E]: by events that may
    know the vector."""
    side, (by_id, present) = entities.side, vectors
    rows = entities.places(dataset.events[f"{side}_id"])
    at = dataset.events["at"].to_numpy().astype(np.float64)
    nothing = np.zeros(1)
    unknown = dense(schema, side, entities.numeric[-1:], Counts(nothing, nothing, nothing), nothing > 0, at[-1:])

    def seen(of: Counts) -> NDArray[np.float32]:
        return dense(schema, side, entities.numeric[rows], of, present[rows] & is_known, at)

    return SideFeatures(
        entities=entities,
        rows=torch.from_numpy(rows),
        categorical=torch.from_numpy(entities.categorical),
        dense=torch.from_numpy(seen(counts.fresh)),
        live_dense=torch.from_numpy(seen(counts.live)),
        aged_dense=torch.from_numpy(np.stack([seen(draw) for draw in counts.aged])),
        unknown_dense=torch.from_numpy(unknown[0]),
        vectors=torch.from_numpy(np.pad(by_id, ((0, 1), (0, 0)))),
        present=torch.from_numpy(np.append(present, False)),
    )
