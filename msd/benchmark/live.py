"""Counts kept up to date through valid and test, as a service with feedback has them (progressive evaluation)."""

from dataclasses import replace

import numpy as np
import torch

from msd.contract.assemble import Counts, dense
from msd.dataset.load import Dataset
from msd.ranker.features import Features, SideFeatures
from msd.ranker.timeline import walk_events


def with_live_counts(features: Features, dataset: Dataset) -> Features:
    """The features of the dataset's events as they were known at each one's moment: every earlier event is counted,
    whatever its part. So window and train rows see valid and test rows of other users, where those came before.
    """
    every = np.zeros_like(features.parts)
    timeline = walk_events(dataset, features.schema, every, features.user.entities, features.item.entities)
    return replace(
        features,
        user=_side(features, features.user, timeline.user_counts, dataset),
        item=_side(features, features.item, timeline.item_counts, dataset),
        timeline=timeline,
    )


def _side(features: Features, side: SideFeatures, counts: Counts, dataset: Dataset) -> SideFeatures:
    rows, name = side.rows.numpy(), side.entities.side
    known = side.present.numpy()[rows]
    if name == "user":
        known = known & features.knows_user.numpy()
    at = dataset.events["at"].to_numpy().astype(np.float64)
    return replace(
        side, dense=torch.from_numpy(dense(features.schema, name, side.entities.numeric[rows], counts, known, at))
    )
